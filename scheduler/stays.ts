import type { Schedule } from './simulator.ts';

/** One VM on one host, working or not (booting, being written or read, waiting for its turn). */
export interface Stay {
  lease: string;
  host: string;
  from: number;
  to: number;
  working: boolean;
}

/** What the VMs of a schedule did on their hosts, from its actions. */
export function stays(schedule: Schedule): Stay[] {
  const list: Stay[] = [];
  const running = new Map<string, { hosts: string[]; workFrom: number }>();
  const leave = (lease: string, at: number, until: (vm: number) => number) => {
    const run = running.get(lease);
    running.delete(lease);
    for (const [vm, host] of run?.hosts.entries() ?? []) {
      if (at > run!.workFrom) list.push({ lease, host, from: run!.workFrom, to: at, working: true });
      if (until(vm) > at) list.push({ lease, host, from: at, to: until(vm), working: false });
    }
  };
  for (const action of schedule.actions) {
    if (action.do === 'start' || action.do === 'resume') {
      const hosts = action.do === 'start' ? action.hosts : action.vms.map((vm) => vm.host);
      running.set(action.lease, { hosts, workFrom: action.workFromS });
      if (action.workFromS > action.fromS) {
        for (const host of hosts)
          list.push({ lease: action.lease, host, from: action.fromS, to: action.workFromS, working: false });
      }
    } else if (action.do === 'suspend') {
      leave(action.lease, action.fromS, (vm) => action.vms.find((each) => each.vm === vm)!.untilS);
    } else if (action.do === 'stop' || action.do === 'breakPromise') {
      leave(action.lease, action.atS, () => action.atS);
    }
  }
  for (const [lease, at] of schedule.endedAtS) leave(lease, at, () => at);
  return list;
}
