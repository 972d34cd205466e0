import type { LeaseAction, LeaseObservation } from '../leases/actions.ts';

/** An action that a simulated planner requests: a site neither sends images over one link nor plans for the loss of hosts. */
export type SimulatedAction =
  | LeaseAction
  /** The repository sends an image to all of the hosts at once; evictions that make space for it come first. */
  | { kind: 'transfer'; image: string; imageMiB: number; hosts: string[]; leases: string[]; fromS: number; untilS: number }
  | { kind: 'evict'; host: string; image: string; atS: number }
  /** The VMs are lost with their host and the work is queued again, or the lease was cancelled. */
  | { kind: 'stop'; lease: string; atS: number; reason: 'host-lost' | 'cancelled' }
  /** A promise that can't be kept because its hosts are lost. */
  | { kind: 'breakPromise'; lease: string; atS: number; reason: string };

export type EmitSimulated = (action: SimulatedAction) => void;

export type SimulatedObservation =
  | LeaseObservation
  | { kind: 'transferred' }
  | { kind: 'migrated'; lease: string }
  /** The work ended by itself, or its VMs are lost. */
  | { kind: 'ended'; lease: string }
  | { kind: 'hostLost'; host: string }
  | { kind: 'hostBack'; host: string };
