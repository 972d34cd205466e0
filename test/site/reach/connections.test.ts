import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { run } from '../../../drivers/host/run-process.ts';
import { move, moveOver } from '../moves.ts';
import { onSharedSite } from '../shared-site.ts';
import type { TestSite } from '../the-site.ts';
import { berth, berthArgv, berthEnv, berthLine, removeVm, start, startVm } from './berth.ts';

let here: TestSite;
let folder: string;
let key: string;
onSharedSite((site) => {
  here = site;
});
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-connections-'));
  key = join(folder, 'key');
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key], { deadlineMs: 10_000 });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const sha256 = (...parts: Uint8Array[]): string => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
};

/** Answers each connection with its own bytes. */
const echoServer = `use IO::Socket::INET; use IO::Select; $SIG{PIPE} = 'IGNORE'; $| = 1;
my $l = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 9000, Listen => 8, ReuseAddr => 1) or die $!; print "ready\\n";
while (my $c = $l->accept) { next if fork; my $b; while (my $n = sysread($c, $b, 65536)) { my $at = 0;
  while ($at < $n) { $at += syswrite($c, $b, $n - $at, $at) // exit 1 } } exit 0 }`;

const partBytes = 500;
/** Longer than a migration takes. */
const copySeconds = 40;

/** Sends random bytes, some each few milliseconds, until it is stopped. @returns what was sent, and what came back */
function exchange(into: Writable, from: Readable) {
  const sent = createHash('sha256');
  const back = createHash('sha256');
  let [bytesSent, bytesBack] = [0, 0];
  from.on('data', (bytes: Buffer) => {
    back.update(bytes);
    bytesBack += bytes.length;
  });
  const ended = new Promise((resolve) => from.once('end', resolve).once('error', resolve));
  let over = false;
  const sending = (async () => {
    for (; !over; await delay(20)) {
      const bytes = randomBytes(partBytes);
      sent.update(bytes);
      bytesSent += bytes.length;
      if (!into.write(bytes)) await new Promise((drained) => into.once('drain', drained));
    }
  })();
  return {
    back: () => bytesBack,
    async stop() {
      over = true;
      await sending;
      into.end();
      await ended;
      return { bytesSent, bytesBack, sent: sent.digest('hex'), back: back.digest('hex') };
    },
  };
}

/** The programs of this machine run in the guest, whatever libraries that has: with those of here. */
async function packProgram(name: string): Promise<string> {
  const path = (await run(['sh', '-c', `command -v ${name}`], { deadlineMs: 5000 })).trim();
  const linked = await run(['ldd', path], { deadlineMs: 5000 });
  const libraries = [...linked.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map((match) => match[1]!);
  const packed = join(folder, 'packed');
  await mkdir(packed, { recursive: true });
  await run(['cp', '-L', path, ...libraries, packed], { deadlineMs: 10_000 });
  const loader = libraries.find((one) => /\/ld-linux/.test(one))!.replace(/.*\//, '');
  return `/opt/packed/${loader} --library-path /opt/packed /opt/packed/${name}`;
}

/** How much is copied while a VM moves, at the pace of this machine and its emulated guest. */
async function copyMiB(vm: string): Promise<number> {
  await writeFile(join(folder, 'pace'), randomBytes(2 ** 20));
  const sinceMs = performance.now();
  expect(await berth(here, ['cp', join(folder, 'pace'), `${vm}:/home/task`])).toMatchObject({ code: 0 });
  return Math.min(100, Math.ceil(copySeconds / ((performance.now() - sinceMs) / 1000)));
}

test('forward, ssh and cp go on through live migrations, and sftp and rsync use a forwarded port', async () => {
  const vm = await startVm(here, 'connections', {
    user: { name: 'ann', sshKey: (await readFile(`${key}.pub`, 'utf8')).trim() },
    resources: { vcpus: 1, memoryMiB: 224, diskMiB: 256 },
  });
  const listening = Promise.withResolvers<void>();
  const server = start(here, berthArgv('exec', vm, '--', 'perl', '-e', echoServer), () => listening.resolve());
  await listening.promise;

  const localPort = Promise.withResolvers<number>();
  const forward = start(here, berthArgv('forward', vm, '0:9000'), (bytes) => {
    const port = /^127\.0\.0\.1:(\d+) is/.exec(String(bytes))?.[1];
    if (port !== undefined) localPort.resolve(Number(port));
  });
  const socket = connect({ host: '127.0.0.1', port: await localPort.promise, allowHalfOpen: true });
  const forwarded = exchange(socket, socket);
  const ssh = start(here, berthArgv('ssh', vm, '--user', 'ann', '--', '-i', key, 'cat'));
  const logged = exchange(ssh.child.stdin, ssh.child.stdout);
  onTestFinished(() => {
    for (const { child } of [server, forward, ssh]) child.kill('SIGINT');
  });
  await expect.poll(() => forwarded.back() > 0 && logged.back() > 0, { timeout: 60_000 }).toBe(true);

  /** Live-migrates under a copy, which has to be longer. */
  const copyOverMove = async (from: string, to: string): Promise<string> => {
    const began = performance.now();
    let ended: number | null = null;
    const copy = berth(here, ['cp', from, to]).finally(() => {
      ended = performance.now();
    });
    await delay(1500);
    const [backBefore, loggedBefore] = [forwarded.back(), logged.back()];
    const requested = await move(here, vm);
    const migration = await moveOver(here, requested.id);
    const movedAt = performance.now();
    expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', mode: 'live' });
    expect(await copy).toMatchObject({ code: 0, error: '' });
    expect(ended!, 'the copy has to outlast the migration').toBeGreaterThan(movedAt);
    await expect.poll(() => forwarded.back(), { timeout: 30_000 }).toBeGreaterThan(backBefore);
    await expect.poll(() => logged.back(), { timeout: 30_000 }).toBeGreaterThan(loggedBefore);
    const took = `${((ended! - began) / 1000).toFixed(1)} s, the move at ${((movedAt - began) / 1000).toFixed(1)} s`;
    console.log(`a copy took ${took}`);
    return took;
  };

  const site = join(folder, 'site');
  await mkdir(join(site, 'nested'), { recursive: true });
  const files = { 'large.bin': randomBytes((await copyMiB(vm)) * 2 ** 20), 'nested/small name': randomBytes(1000) };
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(site, name), bytes);
  const inTook = await copyOverMove(site, `${vm}:/home/task`);
  const sums = await berth(here, ['exec', vm, '--', 'sh', '-c', 'cd /home/task/site && sha256sum large.bin "nested/small name"']);
  expect(sums.output.toString().split('\n').slice(0, 2)).toEqual(
    Object.entries(files).map(([name, bytes]) => `${sha256(bytes)}  ${name}`),
  );
  await mkdir(join(folder, 'back'));
  const outTook = await copyOverMove(`${vm}:/home/task/site`, join(folder, 'back'));
  for (const [name, bytes] of Object.entries(files))
    expect(sha256(await readFile(join(folder, 'back/site', name))), name).toBe(sha256(bytes));

  const overForward = await forwarded.stop();
  const overSsh = await logged.stop();
  for (const { sent, back, bytesSent, bytesBack } of [overForward, overSsh]) expect([bytesBack, back]).toEqual([bytesSent, sent]);
  expect(await ssh.ended).toMatchObject({ code: 0, error: '' });
  console.log(
    `cp in ${inTook}; out ${outTook}; echoed over two moves: forward ${overForward.bytesSent} B, ssh ${overSsh.bytesSent} B, digests equal`,
  );

  const proxy = `ProxyCommand=${berthLine('forward', vm, '--stdio', '22')}`;
  const options = ['-i', key, '-o', proxy, '-o', 'StrictHostKeyChecking=no', '-o', `UserKnownHostsFile=${join(folder, 'known')}`];
  const env = berthEnv(here);
  const small = join(site, 'nested/small name');
  const batch = `put "${small}" /tmp/by-sftp\nget /tmp/by-sftp ${join(folder, 'by-sftp')}\n`;
  await run(['sftp', '-b', '-', ...options, 'ann@any'], { deadlineMs: 60_000, env, input: batch });
  expect(sha256(await readFile(join(folder, 'by-sftp')))).toBe(sha256(files['nested/small name']));

  const rsync = await packProgram('rsync');
  expect(await berth(here, ['cp', join(folder, 'packed'), `${vm}:/opt`])).toMatchObject({ code: 0 });
  const shell = ['ssh', ...options].map((word) => (word.includes(' ') ? `"${word}"` : word)).join(' ');
  const sync = (from: string, to: string) =>
    run(['rsync', '-a', '--rsync-path', rsync, '-e', shell, from, to], { deadlineMs: 120_000, env });
  await sync(`${site}/nested/`, 'ann@any:/tmp/by-rsync/');
  await sync('ann@any:/tmp/by-rsync/', `${join(folder, 'by-rsync')}/`);
  expect(sha256(await readFile(join(folder, 'by-rsync/small name')))).toBe(sha256(files['nested/small name']));

  forward.child.kill('SIGINT');
  server.child.kill('SIGINT');
  await Promise.all([forward.ended, server.ended]);
  await removeVm(here, vm);
}, 1_200_000);
