import { setTimeout as pause } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';

/**
 * One client that does the worst that it may, in a thread of its own: as many requests at once as it has kinds of, each repeated
 * as soon as it is answered; 429 and Retry-After are ignored.
 */
const { base, key, taskId } = workerData as { base: string; key: string; taskId: string };
const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
const counts: Record<string, Record<number, number>> = {};

const order = { image: 'debian-12', command: ['true'] };
const fields = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, index) => [`f${index}`, index]));
const star = '*a'.repeat(60);

const bodies: [string, string, string][] = [
  ['wrong fields', '/v1/tasks', JSON.stringify({ ...order, ...fields(9000) })],
  ['too many fields', '/v1/tasks', JSON.stringify(fields(200_000))],
  ['deep', '/v1/tasks', '['.repeat(500_000)],
  ['large', '/v1/tasks', JSON.stringify({ ...order, command: ['x'.repeat(4_000_000)] })],
  ['long name', '/v1/tasks', JSON.stringify({ ...order, name: 'x'.repeat(4_000_000) })],
  ['wrong inputs', '/v1/tasks', JSON.stringify({ ...order, inputs: Array.from({ length: 1000 }, () => ({ path: '..' })) })],
  ['globs', '/v1/tasks', JSON.stringify({ ...order, outputs: Array.from({ length: 100 }, (_, index) => `${star}/**/${index}`) })],
  ['quotes', '/v1/quotes', JSON.stringify({ image: 'debian-12', nodes: 64 })],
];
const gets = ['/v1/schedule', '/v1/tasks?limit=200', '/v1/events?limit=200', '/v1/me'];

let over = false;
parentPort!.once('message', () => {
  over = true;
});

async function repeat(name: string, path: string, init: RequestInit): Promise<void> {
  while (!over) {
    try {
      const answer = await fetch(new URL(path, base), { ...init, headers });
      await answer.arrayBuffer();
      counts[name] = { ...counts[name], [answer.status]: (counts[name]?.[answer.status] ?? 0) + 1 };
    } catch {
      // The API has closed a connection on a body that it refuses: the next attempt opens another.
      counts[name] = { ...counts[name], 0: (counts[name]?.[0] ?? 0) + 1 };
      await pause(1);
    }
  }
}

/** Followers that read nothing. */
async function follow(): Promise<void> {
  const followers = await Promise.all(
    Array.from({ length: 100 }, () => fetch(new URL(`/v1/tasks/${taskId}/log?follow=1`, base), { headers }).catch(() => null)),
  );
  const statuses = followers.map((answer) => answer?.status ?? 0);
  counts.followers = { 200: statuses.filter((status) => status === 200).length, 429: statuses.filter((s) => s === 429).length };
  while (!over) await pause(200);
  await Promise.all(followers.map((answer) => answer?.body?.cancel()));
}

await Promise.all([
  follow(),
  ...bodies.flatMap(([name, path, body]) => Array.from({ length: 2 }, () => repeat(name, path, { method: 'POST', body }))),
  ...gets.map((path) => repeat(path, path, {})),
]);
parentPort!.postMessage(counts);
