import type { HostId, Id, VmId } from './ids.ts';

export type DrainId = Id<'drain'>;

/**
 * States of a drain. `held`: the host is empty, and its VMs return later. The last four are its ends: the host is
 * empty; something remained when the deadline had passed; it was cancelled; its VMs were returned. The ledger
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

/** One VM at a time disturbs each the least, several at a time are faster; `auto` is sequential where that meets the deadline. */
export const drainStrategies = ['auto', 'sequential', 'parallel'] as const;
export type DrainStrategy = (typeof drainStrategies)[number];

/** How VMs migrate. `auto`: live where the pre-copy is expected to converge, otherwise cold. */
export const drainModes = ['auto', 'live', 'cold'] as const;
export type DrainMode = (typeof drainModes)[number];

/** Whether a VM that no other host can take is suspended on its host, and restored there when the host is opened. */
export const suspendInPlaceChoices = ['never', 'ifStuck'] as const;
export type SuspendInPlace = (typeof suspendInPlaceChoices)[number];

/** A VM that keeps the host from being empty. */
export interface Blocker {
  vm: VmId;
  why: string;
}

/** Found on a host that should be empty: a VM's id, or a domain's name. */
export interface Remaining {
  what: string;
  why: string;
}

/** One VM's migration, for a drain's saga and the API. */
export interface DrainMove {
  migration: Id<'migration'>;
  vm: VmId;
  generation: number;
}

/** A plan as it is stored and shown: times in RFC 3339. */
export interface DrainOutline {
  strategy: 'sequential' | 'parallel';
  moves: { vm: VmId; to: HostId; mode: 'live' | 'cold' | 'disks'; meanS: number; recoveryS: number | null }[];
  /** VMs without a possible target, which are suspended in place: after the moves, or in time for the deadline. */
  suspensions: { vm: VmId; meanS: number }[];
  /** VMs that end by themselves before the deadline. */
  leaving: { vm: VmId; by: string | null }[];
  blockers: Blocker[];
  meanS: number;
  boundS: number;
  startAt: string;
  /** When the host is expected to be empty, and by when with the confidence asked for; null: it can't be predicted. */
  expectedAt: string | null;
  emptyBy: string | null;
}
