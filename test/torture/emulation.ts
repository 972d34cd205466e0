import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { killProcessGroup, run } from '../../drivers/host/run-process.ts';
import { memoryArguments } from '../../drivers/libvirt/domain-xml.ts';
import { lostPagesIn, pageWriter } from '../contract/real/page-writer.ts';
import type { TortureOptions } from './options.ts';

/** Bytes a second. */
const unlimited = 2 ** 40;

/**
 * Measures whether an emulated guest survives its live migrations, with QEMU alone: no libvirt, no network, and of Berth only
 * how the guest's memory is made. A guest that counts in its memory moves from one QEMU process to another on this machine,
 * `runs` times in each case; `lanes` concurrent guests are the side load. A guest whose agent is silent for a minute after a
 * move is dead, and another one is booted. Needs the guest image that setup built.
 */
const cases = {
  plain: { throttled: false, downtimeMs: 300, bandwidth: unlimited },
  'auto-converge': { throttled: true, downtimeMs: 300, bandwidth: unlimited },
  'short downtime': { throttled: false, downtimeMs: 30, bandwidth: unlimited },
  // Each pass sends pages that were not written since the one before, and scans once.
  'many scans': { throttled: true, downtimeMs: 100, bandwidth: 40 * 2 ** 20 },
} as const;
type Case = (typeof cases)[keyof typeof cases];

const memoryMiB = 160;
const bootMs = 240_000;
const silentMs = 60_000;
const pages = 2048;

interface Tally {
  moves: number;
  /** Guests whose agent was silent after a move. */
  died: number;
  /** Moves after which a guest found an older version of a page. */
  lost: number;
  /** Rounds of pre-copy. */
  rounds: number;
}

interface Image {
  folder: string;
  cmdline: string;
}

/** The guests that run. */
const machines = new Set<ChildProcess>();

interface Machine {
  child: ChildProcess;
  monitor: Channel;
  agent: Channel;
}

export async function tortureEmulation({ runs, cases: wanted, lanes }: TortureOptions): Promise<boolean> {
  const names = (wanted ?? Object.keys(cases)) as (keyof typeof cases)[];
  const image = await newestImage();
  let wrong = 0;
  // However this ends: no other component stops a process that emulates an endless loop.
  process.once('exit', () => {
    for (const child of machines) killProcessGroup(child);
  });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
  for (const name of names) {
    const tally: Tally = { moves: 0, died: 0, lost: 0, rounds: 0 };
    const startedMs = Date.now();
    await Promise.all(Array.from({ length: lanes }, () => lane(image, cases[name], runs, tally)));
    wrong += tally.died + tally.lost;
    const seconds = Math.round((Date.now() - startedMs) / 1000);
    console.log(JSON.stringify({ name: 'torture.emulation', case: name, lanes, ...tally, seconds }));
  }
  return wrong === 0;
}

/** Moves guests, one after the other, until all lanes together have made the requested number of moves. */
async function lane(image: Image, how: Case, runs: number, tally: Tally): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-emulation-'));
  let machine: Machine | null = null;
  let number = 0;
  let seen = 0;
  try {
    while (tally.moves < runs) {
      machine ??= await booted(image, folder);
      tally.moves += 1;
      number += 1;
      const moved: Machine = await move(image, folder, machine, number, how, tally);
      machine = moved;
      const alive = await answers(moved, silentMs);
      const said = (await readFile(join(folder, 'console.log'), 'utf8')).slice(seen);
      seen += said.length;
      const lost = lostPagesIn(said);
      if (lost.length > 0) {
        tally.lost += 1;
        console.log(JSON.stringify({ move: number, pages: lost.length, first: lost.slice(0, 3) }));
      }
      if (alive) continue;
      tally.died += 1;
      console.log(JSON.stringify({ move: number, died: true, console: said.slice(-1500) }));
      end(moved);
      machine = null;
    }
  } finally {
    if (machine !== null) end(machine);
    await rm(folder, { recursive: true, force: true });
  }
}

async function booted(image: Image, folder: string): Promise<Machine> {
  await rm(join(folder, 'disk.qcow2'), { force: true });
  const make = ['create', '-q', '-f', 'qcow2', '-b', join(image.folder, 'disk.qcow2'), '-F', 'qcow2', join(folder, 'disk.qcow2')];
  await run(['qemu-img', ...make], { deadlineMs: 20_000 });
  const machine = await start(image, folder, 0, null);
  if (!(await answers(machine, bootMs))) throw new Error(`the guest does not boot: see ${folder}/console.log`);
  const { pid } = (await machine.agent.ask(
    'guest-exec',
    { path: '/usr/bin/perl', arg: ['-e', pageWriter(pages)] },
    silentMs,
  )) as {
    pid: number;
  };
  await delay(2000);
  const status = (await machine.agent.ask('guest-exec-status', { pid }, silentMs)) as { exited: boolean };
  if (status.exited) throw new Error(`what counts has ended: ${JSON.stringify(status)}`);
  return machine;
}

/** As libvirt does it: the downtime limit, unlimited bandwidth, the source ended afterwards. */
async function move(
  image: Image,
  folder: string,
  from: Machine,
  number: number,
  { throttled, downtimeMs, bandwidth }: Case,
  tally: Tally,
): Promise<Machine> {
  const door = join(folder, `incoming-${number}`);
  const to = await start(image, folder, number, door);
  const { monitor } = from;
  await monitor.ask('migrate-set-capabilities', { capabilities: [{ capability: 'auto-converge', state: throttled }] });
  await monitor.ask('migrate-set-parameters', { 'downtime-limit': downtimeMs, 'max-bandwidth': bandwidth });
  await monitor.ask('migrate', { uri: `unix:${door}` });
  for (const untilMs = Date.now() + 300_000; ; await delay(50)) {
    const job = (await monitor.ask('query-migrate')) as { status: string; ram?: { 'dirty-sync-count': number } };
    if (job.status === 'failed' || job.status === 'cancelled') throw new Error(`the migration is ${JSON.stringify(job)}`);
    if (job.status === 'completed') {
      tally.rounds += job.ram?.['dirty-sync-count'] ?? 0;
      break;
    }
    if (Date.now() > untilMs) throw new Error(`no end of a migration in 300 s: ${JSON.stringify(job)}`);
  }
  end(from);
  return to;
}

async function start(image: Image, folder: string, number: number, incoming: string | null): Promise<Machine> {
  const [monitor, agent] = ['monitor', 'agent'].map((name) => join(folder, `${name}-${number}`));
  const argv = [
    ...['-nodefaults', '-display', 'none', '-machine', 'pc', '-accel', 'tcg', '-cpu', 'qemu64', '-m', String(memoryMiB)],
    // The first is libvirt's, which no guest uses.
    ...['-object', JSON.stringify({ 'qom-type': 'memory-backend-ram', id: 'pc.ram', size: memoryMiB * 2 ** 20 })],
    ...memoryArguments({ memory: { kind: 'own' }, memoryMiB, unalignedMemory: true }),
    ...['-kernel', join(image.folder, 'kernel'), '-initrd', join(image.folder, 'initrd'), '-append', image.cmdline],
    ...['-drive', `file=${join(folder, 'disk.qcow2')},format=qcow2,if=virtio`, '-device', 'virtio-rng-pci'],
    ...['-chardev', `file,id=console,path=${join(folder, 'console.log')},append=on`, '-serial', 'chardev:console'],
    ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=agent,path=${agent},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
    ...['-qmp', `unix:${monitor},server=on,wait=off`],
    ...(incoming === null ? [] : ['-incoming', `unix:${incoming}`]),
  ];
  const child = spawn('qemu-system-x86_64', argv, { stdio: ['ignore', 'ignore', 'inherit'], detached: true });
  machines.add(child);
  const channels = { monitor: await Channel.open(monitor!), agent: await Channel.open(agent!) };
  await channels.monitor.ask('qmp_capabilities');
  return { child, ...channels };
}

function end({ child, monitor, agent }: Machine): void {
  monitor.close();
  agent.close();
  machines.delete(child);
  killProcessGroup(child);
}

/** A late answer to an earlier request is not an answer to this one. */
async function answers({ agent }: Machine, withinMs: number): Promise<boolean> {
  for (const untilMs = Date.now() + withinMs; Date.now() < untilMs; await delay(100)) {
    const id = Math.floor(Math.random() * 2 ** 31);
    const answer = await agent.ask('guest-sync', { id }, 5000).catch(() => null);
    if (answer === id) return true;
  }
  return false;
}

/**
 * One request after the other over a socket with JSON lines; anything that isn't an answer to the last request is skipped.
 */
class Channel {
  readonly #socket: Socket;
  #answered: (line: { return?: unknown; error?: { desc: string } }) => void = () => undefined;

  static async open(path: string): Promise<Channel> {
    for (const untilMs = Date.now() + 60_000; ; await delay(20)) {
      const socket = connect(path);
      const connected = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
      });
      if (connected) return new Channel(socket);
      if (Date.now() > untilMs) throw new Error(`nobody listens at ${path}`);
    }
  }

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', () => undefined);
    createInterface({ input: socket }).on('line', (line) => {
      const said = JSON.parse(line) as { return?: unknown; error?: { desc: string } };
      if (said.return !== undefined || said.error !== undefined) this.#answered(said);
    });
  }

  ask(execute: string, args?: object, withinMs = 60_000): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${execute}: no answer in ${withinMs} ms`)), withinMs);
      this.#answered = ({ return: value, error }) => {
        clearTimeout(timer);
        if (error === undefined) resolve(value);
        else reject(new Error(`${execute}: ${error.desc}`));
      };
      this.#socket.write(`${JSON.stringify({ execute, ...(args === undefined ? {} : { arguments: args }) })}\n`);
    });
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** The newest image that setup has built on this machine. */
async function newestImage(): Promise<Image> {
  const cache = process.env.BERTH_CACHE ?? join(homedir(), '.cache', 'berth');
  const images = join(cache, 'images', 'debian-12');
  const built = await Promise.all(
    (await readdir(images))
      .filter((name) => /^[0-9a-f]{32}$/.test(name))
      .map(async (name) => {
        return { folder: join(images, name), atMs: (await stat(join(images, name))).mtimeMs };
      }),
  );
  const { folder } = built.toSorted((a, b) => b.atMs - a.atMs)[0]!;
  const about = JSON.parse(await readFile(join(folder, 'image.json'), 'utf8')) as unknown;
  return { folder, cmdline: z.object({ cmdline: z.string() }).parse(about).cmdline };
}
