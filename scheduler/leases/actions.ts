/** What the planner wants done, now. Hosts and leases by id. Times in seconds; `untilS` is when it should be over. */
export type Action =
  /** The repository sends an image to all of the hosts at once; what it pushes out of their caches goes first. */
  | { kind: 'transfer'; image: string; imageMiB: number; hosts: string[]; leases: string[]; fromS: number; untilS: number }
  | { kind: 'evict'; host: string; image: string; atS: number }
  /** One VM on each of the hosts; the work starts when all have booted. */
  | { kind: 'start'; lease: string; hosts: string[]; fromS: number; workFromS: number; untilS: number }
  /** The work stops at `fromS` in all VMs; each is written in its turn. */
  | { kind: 'suspend'; lease: string; fromS: number; untilS: number; vms: HostOperation[] }
  /** Each VM is read back in its turn; the work goes on in all of them from `workFromS`. */
  | { kind: 'resume'; lease: string; fromS: number; workFromS: number; untilS: number; vms: HostOperation[] }
  /** Suspended VMs move from host to host; only those that change. */
  | { kind: 'migrate'; lease: string; fromS: number; untilS: number; vms: { vm: number; from: string; to: string }[] }
  /** The VMs are destroyed, the work is lost and waits to start anew (`requeue`), or the promise ends here. */
  | { kind: 'stop'; lease: string; atS: number; reason: 'displaced' | 'host-lost' | 'lease-over' | 'cancelled' }
  /** A promise that can't be kept any more, for no fault of the plan: its hosts are lost. */
  | { kind: 'breakPromise'; lease: string; atS: number; reason: string };

export interface HostOperation {
  vm: number;
  host: string;
  fromS: number;
  untilS: number;
}

/** What happened. Everything that an action started is reported when it is over; nothing is taken to be done by then. */
export type Observation =
  | { kind: 'transferred' }
  | { kind: 'suspended'; lease: string }
  | { kind: 'resumed'; lease: string }
  | { kind: 'migrated'; lease: string }
  /** The work ended by itself, or its VMs are gone. */
  | { kind: 'ended'; lease: string }
  | { kind: 'hostLost'; host: string }
  | { kind: 'hostBack'; host: string };
