import { parentPort, workerData } from 'node:worker_threads';
import { openLedger } from '../../ledger/client.ts';
import { lockPlacement } from '../../ledger/placement/place-queue.ts';

/** Takes the placement lock, says so, and stops dead: its timers don't run, and its connection stays open. */
await openLedger(workerData).$transaction(async (tx) => {
  await lockPlacement(tx);
  parentPort?.postMessage('locked');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
