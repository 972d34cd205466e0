import { PlannedMembers } from '../constraints.ts';
import type { MigrationPredictions } from './cost.ts';
import type { BalanceInput } from './decision.ts';
import { freeProcessors, type OfferContext } from './offers.ts';
import type { BalanceHost, BalanceVm } from './site.ts';
import { addLoad, removeLoad } from './starvation.ts';

/** The site with the moves that a decision has chosen so far. Its input is not changed. */
export class PlannedSite {
  readonly #hosts: Map<string, BalanceHost>;
  readonly #vms = new Map<string, BalanceVm[]>();
  readonly #members: PlannedMembers;
  readonly #input: BalanceInput;
  readonly #predictions: MigrationPredictions = new Map();
  #order: BalanceHost[];

  constructor(input: BalanceInput) {
    this.#input = input;
    this.#hosts = new Map(input.hosts.map((host) => [host.id, host]));
    this.#members = new PlannedMembers(input.members);
    for (const vm of input.vms) {
      const here = this.#vms.get(vm.host);
      if (here === undefined) this.#vms.set(vm.host, [vm]);
      else here.push(vm);
    }
    this.#order = [...input.hosts].sort((a, b) => this.#compareFree(a, b));
  }

  get context(): OfferContext {
    const { nowMs, policy, model } = this.#input;
    return { nowMs, policy, model, members: this.#members.members, predictions: this.#predictions };
  }

  find(id: string): BalanceHost | undefined {
    return this.#hosts.get(id);
  }

  host(id: string): BalanceHost {
    const host = this.#hosts.get(id);
    if (host === undefined) throw new Error(`BUG: there is no host ${id}, and the balancer is to decide about it`);
    return host;
  }

  hosts(): BalanceHost[] {
    return [...this.#hosts.values()];
  }

  vmsOf(host: string): readonly BalanceVm[] {
    return this.#vms.get(host) ?? [];
  }

  /** Those with the most free processors first; by id among equals. */
  byFreeProcessors(): readonly BalanceHost[] {
    return this.#order;
  }

  /** The same site, which may be planned otherwise. Moves so far are counted as in this one. */
  copy(): PlannedSite {
    const vms = [...this.#vms.values()].flat();
    return new PlannedSite({ ...this.#input, hosts: this.hosts(), vms, members: this.#members.members });
  }

  /** Counts the VM at its target alone, as after its move. */
  applyEnded(vm: BalanceVm, to: string): void {
    const before = this.host(vm.host);
    this.apply(vm, to);
    const [source, target] = [this.host(vm.host), this.host(to)];
    const used = { vcpus: before.used.vcpus - vm.vcpus, memoryMiB: before.used.memoryMiB - vm.memoryMiB };
    this.#replace({ ...source, used, leaving: before.leaving });
    this.#replace({ ...target, arriving: target.arriving - 1 });
    const here = this.vmsOf(vm.host).filter(({ id }) => id !== vm.id);
    this.#vms.set(vm.host, here);
    this.#vms.set(to, [...this.vmsOf(to), { ...vm, host: to }]);
  }

  /** Counts the VM at its target, and its memory and vCPUs still at its source as well, as the ledger does while it moves. */
  apply(vm: BalanceVm, to: string): void {
    const source = this.host(vm.host);
    const target = this.host(to);
    this.#replace({ ...source, load: removeLoad(source.load, vm.load), leaving: source.leaving + 1, vms: source.vms - 1 });
    this.#replace({
      ...target,
      load: addLoad(target.load, vm.load),
      used: { vcpus: target.used.vcpus + vm.vcpus, memoryMiB: target.used.memoryMiB + vm.memoryMiB },
      arriving: target.arriving + 1,
      vms: target.vms + 1,
    });
    this.#members.add(vm, vm.host, -1);
    this.#members.add(vm, to);
  }

  #compareFree(a: BalanceHost, b: BalanceHost): number {
    const { targetUse } = this.#input.policy;
    return freeProcessors(b, targetUse) - freeProcessors(a, targetUse) || (a.id < b.id ? -1 : 1);
  }

  #replace(host: BalanceHost): void {
    this.#order.splice(this.#placeOf(this.host(host.id)), 1);
    this.#hosts.set(host.id, host);
    this.#order.splice(this.#placeOf(host), 0, host);
  }

  /** Where the host is in the order, or belongs. */
  #placeOf(host: BalanceHost): number {
    let low = 0;
    let high = this.#order.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#order[middle]!.id !== host.id && this.#compareFree(this.#order[middle]!, host) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
