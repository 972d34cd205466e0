import type { Call } from './faults.ts';

const call = (name: string, nth = 1): Call => ({ name, nth });

/**
 * The calls of a task without faults, in their order: the fault matrix covers these. A test compares the list with a
 * recorded run, so that a new call can't be forgotten.
 */
export const forward: Call[] = [
  call('loadTask'),
  call('reserveTask'),
  call('advanceTask', 1),
  call('stageIn'),
  call('recordImageCached'),
  call('advanceTask', 2),
  call('ensureRunning'),
  call('advanceTask', 3),
  call('runCommand'),
  call('advanceTask', 4),
  call('stageOut'),
];

/** From this call on the verdict is final, and the remaining steps are retried until they succeed. */
export const backward: Call[] = [call('removeVm'), call('finishTask')];

export const cleanRun: Call[] = [...forward, ...backward];

/** The last forward call at which a cancellation is certain to take effect before the verdict. */
export const lastCancellable = forward.findIndex(({ name }) => name === 'runCommand');
