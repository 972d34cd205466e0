import type { HostId, Id, VmId } from './ids.ts';

export type DrainId = Id<'drain'>;

/**
 * States of a drain. `held`: the host is empty, and its VMs come back later. The last four are its ends: the host is
 * empty; something remained when the deadline had passed; it was called off; its VMs were brought back. The ledger
 * enforces the same table.
 */
export const drainTransitions = {
  waiting: ['moving', 'paused', 'held', 'returning', 'empty', 'incomplete', 'cancelled'],
  moving: ['waiting', 'paused', 'held', 'returning', 'empty', 'incomplete', 'cancelled'],
  paused: ['waiting', 'moving', 'held', 'returning', 'empty', 'incomplete', 'cancelled'],
  held: ['returning', 'returned', 'cancelled'],
  returning: ['returned', 'cancelled'],
  empty: [],
  incomplete: [],
  cancelled: [],
  returned: [],
} as const satisfies Record<string, readonly string[]>;

export type DrainState = keyof typeof drainTransitions;
export const drainStates = Object.keys(drainTransitions) as [DrainState, ...DrainState[]];
export const isDrainOver = (state: DrainState): boolean => drainTransitions[state].length === 0;

/** One VM at a time harms each the least; several at a time are done sooner; `auto` takes the first if it is in time. */
export const drainStrategies = ['auto', 'sequential', 'parallel'] as const;
export type DrainStrategy = (typeof drainStrategies)[number];

/** How VMs leave: live where a pre-copy is expected to end and else cold, which is `auto`; or one of them alone. */
export const drainModes = ['auto', 'live', 'cold'] as const;
export type DrainMode = (typeof drainModes)[number];

/** Whether a VM that no other host can take is suspended on its host, and restored there when the host is opened. */
export const suspendInPlaceChoices = ['never', 'ifStuck'] as const;
export type SuspendInPlace = (typeof suspendInPlaceChoices)[number];

/** What stands in the way of an empty host. */
export interface Blocker {
  vm: VmId;
  why: string;
}

/** What was found on a host that was to be empty: a VM's id, or a name that the hypervisor gave. */
export interface Remaining {
  what: string;
  why: string;
}

/** One VM on its way, as a saga and the API name it. */
export interface DrainMove {
  migration: Id<'migration'>;
  vm: VmId;
  generation: number;
}

/** A plan as it is kept and shown: times in RFC 3339. */
export interface DrainOutline {
  strategy: 'sequential' | 'parallel';
  moves: { vm: VmId; to: HostId; mode: 'live' | 'cold' | 'disks'; meanS: number; recoveryS: number | null }[];
  /** VMs that no host can take, and that are suspended in place: after the moves, or when it is time for them. */
  suspensions: { vm: VmId; meanS: number }[];
  /** VMs that end by themselves before the deadline. */
  leaving: { vm: VmId; by: string | null }[];
  blockers: Blocker[];
  meanS: number;
  boundS: number;
  startAt: string;
  /** When the host is expected to be empty, and by when with the confidence asked for; null: not to be foreseen. */
  expectedAt: string | null;
  emptyBy: string | null;
}
