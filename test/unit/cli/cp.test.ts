import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test } from 'vitest';

const program = new URL('../../../cli/berth.ts', import.meta.url).pathname;
const vm = 'vm_01m8pdhpvaeshb8r7fe0p0bss6';
let folder: string;
let api: Server;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-cp-'));
  const refusal = JSON.stringify({ title: 'Conflict', code: 'conflict', detail: 'it does not run', status: 409 });
  api = createServer((_, response) => response.writeHead(200, { 'content-type': 'application/json' }).end(`{"id":"${vm}"}`));
  api.on('upgrade', (_, socket) =>
    socket.end(`HTTP/1.1 409 Conflict\r\nContent-Length: ${refusal.length}\r\nConnection: close\r\n\r\n${refusal}`),
  );
  api.listen(0, '127.0.0.1');
  await once(api, 'listening');
});
afterEach(async () => {
  api.close();
  api.closeAllConnections();
  await rm(folder, { recursive: true });
});

/** Ends only where nothing of the program is left that waits. */
async function cp(from: string, to: string): Promise<{ code: number | null; error: string }> {
  const env = { ...process.env, BERTH_API: `http://127.0.0.1:${(api.address() as AddressInfo).port}`, BERTH_KEY: 'key' };
  const child = spawn(process.execPath, [program, 'cp', from, to], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'exit');
  const error = await text(child.stderr);
  const [code] = await ended;
  return { code: code as number | null, error };
}

test('a copy out of a VM that the API refuses ends with the reason, and leaves nothing', async () => {
  expect(await cp(`${vm}:/srv/site`, folder)).toEqual({ code: 1, error: 'berth: Conflict (conflict): it does not run\n' });
  expect(await readdir(folder)).toEqual([]);
});

test('a copy into a VM that the API refuses ends with the reason', async () => {
  // More than a pipe holds.
  await writeFile(join(folder, 'large'), Buffer.alloc(2 ** 20));
  expect(await cp(join(folder, 'large'), `${vm}:/srv`)).toEqual({
    code: 1,
    error: 'berth: Conflict (conflict): it does not run\n',
  });
});
