import type { Schedule } from './simulator.ts';

/** One VM on one host, working or not (it boots, suspends or resumes, or waits until the host can suspend or resume it). */
interface Occupancy {
  lease: string;
  host: string;
  from: number;
  to: number;
  working: boolean;
}

/** The occupancies of all VMs of a schedule, from its actions. */
export function occupancy(schedule: Schedule): Occupancy[] {
  const list: Occupancy[] = [];
  const running = new Map<string, { hosts: string[]; workFrom: number }>();
  const closeOccupancies = (lease: string, at: number, until: (vm: number) => number) => {
    const run = running.get(lease);
    running.delete(lease);
    for (const [vm, host] of run?.hosts.entries() ?? []) {
      if (at > run!.workFrom) list.push({ lease, host, from: run!.workFrom, to: at, working: true });
      if (until(vm) > at) list.push({ lease, host, from: at, to: until(vm), working: false });
    }
  };
  for (const action of schedule.actions) {
    if (action.kind === 'start' || action.kind === 'resume') {
      const hosts = action.kind === 'start' ? action.hosts : action.vms.map((vm) => vm.host);
      running.set(action.lease, { hosts, workFrom: action.workFromS });
      if (action.workFromS > action.fromS) {
        for (const host of hosts)
          list.push({ lease: action.lease, host, from: action.fromS, to: action.workFromS, working: false });
      }
    } else if (action.kind === 'suspend') {
      closeOccupancies(action.lease, action.fromS, (vm) => action.vms.find((each) => each.vm === vm)!.untilS);
    } else if (action.kind === 'stop' || action.kind === 'breakPromise') {
      closeOccupancies(action.lease, action.atS, () => action.atS);
    }
  }
  for (const [lease, at] of schedule.endedAtS) closeOccupancies(lease, at, () => at);
  return list;
}
