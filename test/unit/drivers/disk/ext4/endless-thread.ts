import { parentPort } from 'node:worker_threads';

/** A reader that never answers, and can't be asked to end. */
parentPort?.once('message', () => {
  for (;;);
});
