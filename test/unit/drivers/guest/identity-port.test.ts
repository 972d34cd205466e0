import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sendIdentity } from '../../../../drivers/guest/identity-port.ts';

let folder: string;
let server: Server | null = null;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-port-'));
});
afterEach(async () => {
  await new Promise((resolve) => (server === null ? resolve(null) : server.close(resolve)));
  server = null;
  await rm(folder, { recursive: true, force: true });
});

const id = '0123456789abcdef0123456789abcdef';
const first = Buffer.from('host node0\nüü\n');
const second = Buffer.from('mount /dev/vdb /home/task\n');

/**
 * A guest at the other end: it behaves as the test defines once it has received everything. Resolves to the path and the
 * received bytes.
 */
async function guest(act: (socket: Socket) => void): Promise<{ path: string; receivedText: () => string }> {
  const path = join(folder, 'identity');
  let receivedText = '';
  const opened = createServer((socket) => {
    socket.setEncoding('utf8').on('error', () => undefined);
    socket.on('data', (chunk: string) => {
      receivedText += chunk;
      if (receivedText.endsWith(second.toString())) act(socket);
    });
  });
  server = opened;
  await new Promise<void>((resolve) => opened.listen(path, resolve));
  return { path, receivedText: () => receivedText };
}

describe('sending a guest its identity', () => {
  it('sends both parts with their lengths, and returns the identity that the guest reports', async () => {
    const { path, receivedText } = await guest((socket) => {
      socket.write('ok node0 ');
      setTimeout(() => socket.write(`${id}\n`), 5);
    });
    expect(await sendIdentity(path, first, second, 10_000)).toEqual({ hostname: 'node0', machineId: id });
    expect(receivedText()).toBe(`${first.length} ${second.length}\n${first}${second}`);
  });

  it.each([
    ['a refusal', 'berth-identity: record 2 (mac): No such device\n', 'record 2 (mac): No such device'],
    ['an answer without a machine id', 'ok node0\n', 'ok node0'],
    ['an answer without an end', 'x'.repeat(5000), 'its answer is longer than'],
  ])('is refused by %s', async (_, answer, why) => {
    const { path } = await guest((socket) => socket.write(answer));
    await expect(sendIdentity(path, first, second, 10_000)).rejects.toMatchObject({
      code: 'hypervisor',
      message: expect.stringContaining(why),
    });
  });

  it('fails when the guest disconnects, and when there is none', async () => {
    const { path } = await guest((socket) => socket.destroy());
    await expect(sendIdentity(path, first, second, 10_000)).rejects.toMatchObject({ code: 'hypervisor' });
    await expect(sendIdentity(`${path}-none`, first, second, 10_000)).rejects.toMatchObject({
      code: 'hypervisor',
      message: expect.stringContaining('ENOENT'),
    });
  });

  it('fails when the guest does not answer in time', async () => {
    const { path } = await guest(() => undefined);
    await expect(sendIdentity(path, first, second, 50)).rejects.toMatchObject({ code: 'boot-failed' });
  });
});
