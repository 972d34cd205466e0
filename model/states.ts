/**
 * States and their legal transitions. The ledger enforces the same tables with a trigger
 * (prisma/migrations); test/unit/states.test.ts holds the two against each other.
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

export const vmTransitions = {
  reserved: ['creating', 'removing', 'removed'],
  creating: ['running', 'removing', 'stuck'],
  running: ['paused', 'suspending', 'migrating', 'stopped', 'removing', 'stuck'],
  paused: ['running', 'stopped', 'removing', 'stuck'],
  suspending: ['suspended', 'running', 'stuck', 'removing'],
  suspended: ['restoring', 'migrating', 'removing', 'stuck'],
  restoring: ['running', 'suspended', 'stuck', 'removing'],
  migrating: ['running', 'suspended', 'paused', 'stopped', 'stuck', 'removing'],
  stopped: ['creating', 'removing', 'stuck'],
  stuck: ['running', 'paused', 'suspended', 'stopped', 'removing'],
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
  failed: ['building'],
  retired: [],
} as const satisfies Record<string, readonly string[]>;

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
