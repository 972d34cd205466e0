import { type LearnedRow, type LoadValue, wantedCpus } from '../../model/load/load.ts';

/** The time constant over which a VM's use is learned, as in the simulation of the balancer. */
const learningS = 2 * 3600;

/** What each VM of a host wants of processors over hours: a decaying mean and variance. It begins anew on each host. */
export class LearnedUse {
  readonly #vms = new Map<string, LearnedRow>();

  observe(vms: Readonly<Record<string, readonly LoadValue[]>>, seconds: number): void {
    for (const vm of this.#vms.keys()) if (!(vm in vms)) this.#vms.delete(vm);
    for (const [vm, row] of Object.entries(vms)) {
      const wanted = wantedCpus(row);
      const [mean, variance, learnedS] = this.#vms.get(vm) ?? [wanted, 0, 0];
      const part = Math.min(1, seconds / Math.min(learningS, learnedS + seconds));
      const difference = wanted - mean;
      this.#vms.set(vm, [mean + part * difference, (1 - part) * (variance + part * difference ** 2), learnedS + seconds]);
    }
  }

  /** Rounded, as it is sent. */
  rows(): Record<string, LearnedRow> {
    const round = (value: number): number => Math.round(value * 1e4) / 1e4;
    return Object.fromEntries(
      [...this.#vms].map(([vm, [mean, variance, learnedS]]) => [vm, [round(mean), round(variance), Math.round(learnedS)]]),
    );
  }
}
