import { parentPort } from 'node:worker_threads';

/** A reader that takes memory without end. */
parentPort?.once('message', () => {
  const taken: number[][] = [];
  for (;;) taken.push(Array.from({ length: 1_000_000 }, (_, index) => index + 0.5));
});
