import { setTimeout as pause } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';

/** Reads one path so many times a second, in an open loop: a late answer delays no request. Times in ms, from when each was due. */
const { url, key, perSecond, seconds } = workerData as { url: string; key: string; perSecond: number; seconds: number };
const headers = { authorization: `Bearer ${key}` };
const began = performance.now();
const pending: Promise<{ ms: number; status: number }>[] = [];

async function read(dueMs: number): Promise<{ ms: number; status: number }> {
  const answer = await fetch(url, { headers }).catch(() => null);
  await answer?.arrayBuffer();
  return { ms: performance.now() - dueMs, status: answer?.status ?? 0 };
}

for (let index = 0; index < perSecond * seconds; index += 1) {
  const dueMs = began + (index * 1000) / perSecond;
  const early = dueMs - performance.now();
  if (early > 0) await pause(early);
  pending.push(read(dueMs));
}
parentPort!.postMessage(await Promise.all(pending));
