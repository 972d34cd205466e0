import { parentPort, workerData } from 'node:worker_threads';
import { openLedger } from '../../ledger/client.ts';
import { lockPlacement } from '../../ledger/placement/lock-placement.ts';

/** Takes the placement lock, reports it, and blocks: its timers do not run, and its connection remains open. */
await openLedger(workerData).$transaction(async (tx) => {
  await lockPlacement(tx);
  parentPort?.postMessage('locked');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
