import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { CallError, type Connection, callJson, list, patiently } from './client.ts';
import { print, type Screen } from './show.ts';

interface Task {
  id: string;
  state: string;
  vms: string[];
  hosts: string[];
  error: { message: string } | null;
}

interface Migration {
  id: string;
  state: string;
  from: string;
  to: string | null;
  bytes: number;
  startedAt: string | null;
  finishedAt: string | null;
  error: { message: string } | null;
}

interface Options {
  image: string;
  memory: number[];
  rounds: number;
  liveOnly?: boolean;
}

const lookMs = 250;
const lastMs = 15 * 60_000;
const day = 86_400;

function sizes(text: string): number[] {
  const values = text.split(',').map(Number);
  if (values.some((value) => !(Number.isInteger(value) && value >= 64)))
    throw new InvalidArgumentError('expected sizes in MiB such as 128,256');
  return values;
}

function whole(text: string): number {
  const value = Number(text);
  if (!(Number.isInteger(value) && value > 0)) throw new InvalidArgumentError('expected a whole number above 0');
  return value;
}

/**
 * `berth calibrate`: gives a site that has measured nothing yet something to predict from. Idle VMs of several sizes are
 * moved from host to host, one after the other, first live and then as files; each move is measured as every move is.
 */
export function addCalibrateCommand(program: Command, connect: () => Connection, screen: () => Screen): void {
  program
    .command('calibrate')
    .description('move idle VMs from host to host, so that the times of migrations can be predicted (operators)')
    .requiredOption('--image <name>', 'what the VMs are made from')
    .option('--memory <sizes>', 'their sizes in MiB', sizes, [128, 256])
    .option('--rounds <count>', 'how often each visits every host', whole, 2)
    .option('--live-only', 'none is suspended for a journey')
    .addHelpText('after', '\nExample:\n  berth calibrate --image debian-12 --memory 128,256,512')
    .action(async ({ image, memory, rounds, liveOnly }: Options) => {
      const modes = liveOnly ? ['live'] : ['live', 'cold'];
      const hosts = await list<{ id: string; state: string }>(connect(), '/v1/hosts', {}, 10_000);
      const up = hosts.filter(({ state }) => state === 'up').map(({ id }) => id);
      if (up.length < 2) throw new CallError(`There are ${up.length} hosts that answer; moving needs two`, null);
      // Every host gets the image by running something: a migration copies none.
      await over(connect(), (await submit(connect(), { image, command: ['true'], nodes: up.length })).id);
      for (const memoryMiB of memory) {
        const resources = { vcpus: 1, memoryMiB, diskMiB: 64 };
        const lease = { kind: 'bestEffort', durationS: day };
        const { id } = await submit(connect(), { image, command: ['sleep', String(day)], timeoutS: day, lease, resources });
        try {
          for (const mode of modes) await around(connect(), screen(), { task: id, mode, memoryMiB, hosts: up, rounds });
        } finally {
          await callJson<Task>(connect(), `/v1/tasks/${id}`, { method: 'DELETE' });
        }
      }
    });
}

interface Journey {
  task: string;
  mode: string;
  memoryMiB: number;
  hosts: string[];
  rounds: number;
}

async function around(connected: Connection, screen: Screen, { task, mode, memoryMiB, hosts, rounds }: Journey) {
  const { vms, hosts: at } = await until(connected, task, (one) => one.state === 'running');
  const start = hosts.indexOf(at[0] ?? '');
  for (let move = 1; move <= rounds * hosts.length; move += 1) {
    const to = hosts[(start + move) % hosts.length]!;
    const sent = {
      method: 'POST' as const,
      json: { to, mode, reason: 'calibration' },
      headers: { 'idempotency-key': randomUUID() },
    };
    const { id } = await patiently(() => callJson<Migration>(connected, `/v1/vms/${vms[0]}/migrations`, sent));
    const moved = await ended(connected, id);
    if (moved.state !== 'succeeded') throw new CallError(`${id} is ${moved.state}: ${moved.error?.message}`, null);
    const seconds = (Date.parse(moved.finishedAt ?? '') - Date.parse(moved.startedAt ?? '')) / 1000;
    const line = { from: moved.from, to, mode, memoryMiB, seconds, mib: Math.round(moved.bytes / 2 ** 20) };
    print(
      screen,
      screen.json ? JSON.stringify(line) : `${line.from} → ${to}  ${mode}  ${memoryMiB} MiB  ${line.mib} MiB sent  ${seconds} s`,
    );
  }
}

async function submit(connected: Connection, json: object): Promise<Task> {
  const sent = { method: 'POST' as const, json, headers: { 'idempotency-key': randomUUID() } };
  return patiently(() => callJson<Task>(connected, '/v1/tasks', sent));
}

async function until(connected: Connection, id: string, met: (task: Task) => boolean): Promise<Task> {
  for (const end = Date.now() + lastMs; ; await pause(lookMs)) {
    const task = await patiently(() => callJson<Task>(connected, `/v1/tasks/${id}`));
    if (met(task)) return task;
    if (['succeeded', 'failed', 'cancelled'].includes(task.state) || Date.now() > end)
      throw new CallError(`${id} is ${task.state}: ${task.error?.message ?? 'it takes too long'}`, null);
  }
}

const over = (connected: Connection, id: string): Promise<Task> => until(connected, id, ({ state }) => state === 'succeeded');

async function ended(connected: Connection, id: string): Promise<Migration> {
  for (const end = Date.now() + lastMs; ; await pause(lookMs)) {
    const found = await patiently(() => callJson<Migration>(connected, `/v1/migrations/${id}`));
    if (found.state === 'succeeded' || found.state === 'rolledBack') return found;
    if (Date.now() > end) throw new CallError(`${id} is still ${found.state}`, null);
  }
}
