import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createInterface } from 'node:readline';
import type { Load } from './webhook-load.ts';

/**
 * The receivers of `npm run bench -- webhooks`, as a process: each path is one, `/failing` answers 500 and `/silent` nothing. A line of
 * the standard input ends them; they print what they took.
 */
const taken: { path: string; sequence: number; atMs: number; lagMs: number }[] = [];
const last = new Map<string, number>();
const check: string[] = [];

const server = createServer(async (req, res) => {
  const chunks: Buffer[] = [];
  for await (const chunk of req) chunks.push(chunk as Buffer);
  const path = req.url ?? '';
  if (path === '/silent') return;
  if (path === '/failing') return res.writeHead(500).end();
  const atMs = Date.now();
  const event = JSON.parse(Buffer.concat(chunks).toString('utf8')) as { sequence: string; time: string };
  const sequence = Number(event.sequence);
  const before = last.get(path) ?? 0;
  // What comes again was taken before.
  if (sequence > before) {
    last.set(path, sequence);
    taken.push({ path, sequence, atMs, lagMs: atMs - Date.parse(event.time) });
  } else if (!taken.some((one) => one.path === path && one.sequence === sequence))
    check.push(`${path}: ${sequence} after ${before}`);
  return res.end();
});
server.listen(0, '127.0.0.1', () =>
  process.stdout.write(`${JSON.stringify({ port: (server.address() as AddressInfo).port })}\n`),
);

for await (const line of createInterface({ input: process.stdin })) {
  const { fromMs, toMs } = JSON.parse(line) as { fromMs: number; toMs: number };
  const lagsMs = taken.filter(({ atMs }) => atMs >= fromMs && atMs < toMs).map(({ lagMs }) => lagMs);
  const load: Load = { events: taken.length, lagsMs, check };
  process.stdout.write(`${JSON.stringify(load)}\n`);
}
