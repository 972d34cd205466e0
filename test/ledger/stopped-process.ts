import { parentPort, workerData } from 'node:worker_threads';
import { lockPlacement } from '../../activities/ledger/place-queue.ts';
import { openLedger } from '../../prisma/client.ts';

/** Takes the placement lock, says so, and stops dead: its timers don't run, and its connection stays open. */
await openLedger(workerData).$transaction(async (tx) => {
  await lockPlacement(tx);
  parentPort?.postMessage('locked');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
