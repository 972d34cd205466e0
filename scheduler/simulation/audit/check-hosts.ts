import type { TraceLease } from '../trace.ts';
import { type AuditContext, checkOneAtATime, toleranceS } from './context.ts';

/** At no moment is more of a host in use than it has. */
export function checkCapacity({ trace, occupancies, report }: AuditContext): void {
  const leases = new Map(trace.leases.map((lease) => [lease.id, lease]));
  const changes = new Map<string, { at: number; sign: number; lease: TraceLease }[]>();
  for (const one of occupancies) {
    const list = changes.get(one.host) ?? [];
    changes.set(one.host, list);
    list.push({ at: one.from, sign: 1, lease: leases.get(one.lease)! }, { at: one.to, sign: -1, lease: leases.get(one.lease)! });
  }
  const { vcpus, memoryMiB, diskMiB } = trace.hosts;
  for (const [host, list] of changes) {
    list.sort((a, b) => a.at - b.at || a.sign - b.sign);
    const taken = { vcpus: 0, memoryMiB: 0, diskMiB: 0 };
    for (const { at, sign, lease } of list) {
      taken.vcpus += sign * lease.vcpus;
      taken.memoryMiB += sign * lease.memoryMiB;
      taken.diskMiB += sign * (lease.diskMiB ?? 0);
      const over =
        taken.vcpus > vcpus + toleranceS ||
        taken.memoryMiB > memoryMiB + toleranceS ||
        (diskMiB !== undefined && taken.diskMiB > diskMiB + toleranceS);
      if (over) report(`${host} holds more than it has at ${at} (${lease.id})`);
    }
  }
}

/** A drained host is empty. */
export function checkDrains({ schedule, occupancies, report }: AuditContext): void {
  for (const { host, fromS, untilS } of schedule.drained) {
    const found = occupancies.find((one) => one.host === host && one.from < untilS - toleranceS && one.to > fromS + toleranceS);
    if (found !== undefined) report(`${found.lease} is on ${host} from ${found.from} to ${found.to} while it is drained`);
  }
}

/** A host suspends and resumes one VM at a time, and no faster than its memory can be written or read. */
export function checkOperations({ trace, schedule, report }: AuditContext): void {
  const memory = new Map(trace.leases.map((lease) => [lease.id, lease.memoryMiB]));
  const byHost = new Map<string, { from: number; to: number; lease: string }[]>();
  for (const action of schedule.actions) {
    if (action.kind !== 'suspend' && action.kind !== 'resume') continue;
    if (!schedule.policy.suspension) report(`${action.lease} is suspended where that is not allowed`);
    for (const vm of action.vms) {
      const list = byHost.get(vm.host) ?? [];
      byHost.set(vm.host, list);
      list.push({ from: vm.fromS, to: vm.untilS, lease: action.lease });
      if (vm.untilS - vm.fromS < memory.get(action.lease)! / schedule.policy.suspendMiBPerS - toleranceS) {
        report(`the memory of ${action.lease} is written or read faster than ${vm.host} can`);
      }
    }
  }
  for (const [host, list] of byHost) checkOneAtATime(report, `${host} suspends or resumes`, list);
}

/** A migration is no faster than its bytes allow; a host's network transfers one migration or image at a time. */
export function checkNetwork({ trace, schedule, report }: AuditContext): void {
  const { migration, networkMiBPerS, images } = schedule.policy;
  const leases = new Map(trace.leases.map((lease) => [lease.id, lease]));
  const byHost = new Map<string, { from: number; to: number; lease: string }[]>();
  for (const action of schedule.actions) {
    if (action.kind !== 'migrate' && action.kind !== 'transfer') continue;
    const hosts = action.kind === 'transfer' ? action.hosts : action.vms.flatMap(({ from, to }) => [from, to]);
    const name = action.kind === 'transfer' ? action.image : action.lease;
    for (const host of hosts)
      byHost.set(host, [...(byHost.get(host) ?? []), { from: action.fromS, to: action.untilS, lease: name }]);
    if (action.kind === 'transfer') continue;
    const lease = leases.get(name)!;
    const diskMiB = migration === 'memoryAndDisk' && images !== null ? lease.imageMiB : 0;
    if (migration === 'none') report(`${name} migrates where that is not allowed`);
    if (action.untilS - action.fromS < (lease.memoryMiB + diskMiB) / networkMiBPerS - toleranceS)
      report(`${name} migrates too fast`);
  }
  for (const [host, list] of byHost) checkOneAtATime(report, `the network of ${host} transfers`, list);
}
