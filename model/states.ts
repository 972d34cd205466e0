/**
 * States and their legal transitions. The ledger enforces the same tables with triggers
 * (prisma/migrations); test/ledger/transitions.test.ts holds the two against each other, in both directions.
 */
export const taskTransitions = {
  queued: ['stagingIn', 'failed', 'cancelled'],
  stagingIn: ['starting', 'queued', 'failed', 'cancelled'],
  starting: ['running', 'queued', 'failed', 'cancelled'],
  running: ['stagingOut', 'failed', 'cancelled'],
  stagingOut: ['succeeded', 'failed', 'cancelled'],
  succeeded: [],
  failed: [],
  cancelled: [],
} as const satisfies Record<string, readonly string[]>;

/** `pending` waits for a host and takes nothing; a reservation goes back to it when its task is queued again. */
export const vmTransitions = {
  pending: ['reserved', 'removed'],
  reserved: ['pending', 'creating', 'removing', 'removed', 'stuck'],
  creating: ['running', 'stopped', 'crashed', 'removing', 'stuck'],
  running: ['paused', 'suspending', 'migrating', 'stopped', 'crashed', 'removing', 'stuck'],
  paused: ['running', 'suspending', 'migrating', 'stopped', 'crashed', 'removing', 'stuck'],
  suspending: ['suspended', 'running', 'stopped', 'crashed', 'stuck', 'removing'],
  suspended: ['restoring', 'migrating', 'removing', 'stuck'],
  restoring: ['running', 'suspended', 'stopped', 'crashed', 'stuck', 'removing'],
  migrating: ['running', 'suspended', 'paused', 'stopped', 'crashed', 'stuck', 'removing'],
  stopped: ['creating', 'migrating', 'removing', 'stuck'],
  crashed: ['creating', 'migrating', 'removing', 'stuck'],
  stuck: ['running', 'paused', 'suspended', 'stopped', 'crashed', 'removing'],
  removing: ['removed', 'stuck'],
  removed: [],
} as const satisfies Record<string, readonly string[]>;

/** `unknown` is a silent host: it gets no new work, and its VMs are not restarted elsewhere. */
export const hostTransitions = {
  up: ['unknown'],
  unknown: ['up'],
} as const satisfies Record<string, readonly string[]>;

export const imageTransitions = {
  building: ['ready', 'failed'],
  ready: ['retired'],
  failed: ['building', 'retired'],
  retired: [],
} as const satisfies Record<string, readonly string[]>;

/** In these states a VM counts against no host's capacity, and has no address that is its own. */
export const vmStatesWithoutResources = ['pending', 'removed'] as const satisfies readonly (keyof typeof vmTransitions)[];

export type TaskState = keyof typeof taskTransitions;
export type VmState = keyof typeof vmTransitions;
export type HostState = keyof typeof hostTransitions;
export type ImageState = keyof typeof imageTransitions;

export const taskStates = Object.keys(taskTransitions) as [TaskState, ...TaskState[]];
export const vmStates = Object.keys(vmTransitions) as [VmState, ...VmState[]];
export const hostStates = Object.keys(hostTransitions) as [HostState, ...HostState[]];
export const imageStates = Object.keys(imageTransitions) as [ImageState, ...ImageState[]];

export const terminalTaskStates = ['succeeded', 'failed', 'cancelled'] as const satisfies readonly TaskState[];
export type TerminalTaskState = (typeof terminalTaskStates)[number];

export function isTerminal(state: TaskState): state is TerminalTaskState {
  return taskTransitions[state].length === 0;
}

/** A VM that has no domain and no memory, and starts again from its disks. */
export const hasEnded = (state: VmState): state is 'stopped' | 'crashed' => state === 'stopped' || state === 'crashed';
