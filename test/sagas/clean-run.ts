import type { Call } from './faults.ts';

const call = (name: string, nth = 1): Call => ({ name, nth });

/**
 * The calls of a task that nothing befalls, in the order in which they are made: what the fault matrix covers. A test
 * holds it against a recorded run, so that a new call can't be forgotten.
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

/** From here on the verdict stands, and what has to be done is done until it succeeds. */
export const backward: Call[] = [call('removeVm'), call('finishTask')];

export const cleanRun: Call[] = [...forward, ...backward];

/** The last forward call at which a cancellation is sure to be heard before the verdict. */
export const lastCancellable = forward.findIndex(({ name }) => name === 'runCommand');
