/** What the planner wants done, now. Hosts and leases by id. Times in seconds; `untilS` is the expected end. */
export type LeaseAction =
  /** One VM on each of the hosts; the work starts when all have booted. */
  | { kind: 'start'; lease: string; hosts: string[]; fromS: number; workFromS: number; untilS: number }
  /** The work stops at `fromS` in all VMs; the memory of each is written in its turn. */
  | { kind: 'suspend'; lease: string; fromS: number; untilS: number; vms: HostOperation[] }
  /** The memory of each VM is read in its turn; the work continues in all of them from `workFromS`. */
  | { kind: 'resume'; lease: string; fromS: number; workFromS: number; untilS: number; vms: HostOperation[] }
  /** Suspended VMs move between hosts; only those that change hosts are listed. */
  | { kind: 'migrate'; lease: string; fromS: number; untilS: number; vms: { vm: number; from: string; to: string }[] }
  /** The VMs are destroyed: `displaced` work is lost and is queued again, a `lease-over` has used its time. */
  | { kind: 'stop'; lease: string; atS: number; reason: 'displaced' | 'lease-over' };

interface HostOperation {
  vm: number;
  host: string;
  fromS: number;
  untilS: number;
}

export type EmitAction = (action: LeaseAction) => void;

/** What happened. Each operation that an action started is reported when it is over; none is assumed to be over. */
export type LeaseObservation = { kind: 'suspended'; lease: string } | { kind: 'resumed'; lease: string };
