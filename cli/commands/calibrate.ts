import { randomUUID } from 'node:crypto';
import { type Command, InvalidArgumentError } from 'commander';
import { CommandError, type Connection, callJson, list, poll, type RequestOptions, type Session, withRetry } from '../client.ts';
import { positiveNumber } from '../options.ts';
import { type Output, print } from '../output.ts';

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

const pollMs = 250;
/** How long one move, or the start of a VM, may take. */
const deadlineMs = 15 * 60_000;
const dayS = 86_400;

function sizes(text: string): number[] {
  const values = text.split(',').map(Number);
  if (values.some((value) => !(Number.isInteger(value) && value >= 64)))
    throw new InvalidArgumentError('expected sizes in MiB such as 128,256');
  return values;
}

/**
 * `berth calibrate`: measures migrations on a new site, so that their times can be predicted. Idle VMs of several sizes
 * are moved from host to host, one after the other, first live and then as files; each move is measured as every move is.
 */
export function addCalibrateCommand(program: Command, { connect, output }: Session): void {
  program
    .command('calibrate')
    .description('move idle VMs from host to host, so that the times of migrations can be predicted (operators)')
    .requiredOption('--image <name>', 'what the VMs are made from')
    .option('--memory <sizes>', 'their sizes in MiB', sizes, [128, 256])
    .option('--rounds <count>', 'how often each visits every host', positiveNumber, 2)
    .option('--live-only', 'none is suspended for a move')
    .addHelpText('after', '\nExample:\n  berth calibrate --image debian-12 --memory 128,256,512')
    .action(async ({ image, memory, rounds, liveOnly }: Options) => {
      const connection = connect();
      const modes = liveOnly ? ['live'] : ['live', 'cold'];
      const hosts = await list<{ id: string; state: string }>(connection, '/v1/hosts', {}, 10_000);
      const up = hosts.filter(({ state }) => state === 'up').map(({ id }) => id);
      if (up.length < 2) throw new CommandError(`There are ${up.length} hosts that answer; moving needs two`);
      // A task on every host, so that every host has the image: a migration copies none.
      const first = await submit(connection, { image, command: ['true'], nodes: up.length });
      await waitForState(connection, first.id, 'succeeded');
      for (const memoryMiB of memory) {
        const resources = { vcpus: 1, memoryMiB, diskMiB: 64 };
        const lease = { kind: 'bestEffort', durationS: dayS };
        const { id } = await submit(connection, { image, command: ['sleep', String(dayS)], timeoutS: dayS, lease, resources });
        try {
          for (const mode of modes) await measure(connection, output(), { task: id, mode, memoryMiB, hosts: up, rounds });
        } finally {
          await callJson<Task>(connection, `/v1/tasks/${id}`, { method: 'DELETE' });
        }
      }
    });
}

interface Measurement {
  task: string;
  mode: string;
  memoryMiB: number;
  hosts: string[];
  rounds: number;
}

async function measure(connection: Connection, output: Output, { task, mode, memoryMiB, hosts, rounds }: Measurement) {
  const { vms, hosts: current } = await waitForState(connection, task, 'running');
  const start = hosts.indexOf(current[0] ?? '');
  for (let move = 1; move <= rounds * hosts.length; move += 1) {
    const to = hosts[(start + move) % hosts.length]!;
    const json = { to, mode, reason: 'calibration' };
    const request: RequestOptions = { method: 'POST', json, headers: { 'idempotency-key': randomUUID() } };
    const { id } = await withRetry(() => callJson<Migration>(connection, `/v1/vms/${vms[0]}/migrations`, request));
    const moved = await waitForMigration(connection, id);
    const seconds = (Date.parse(moved.finishedAt ?? '') - Date.parse(moved.startedAt ?? '')) / 1000;
    const line = { from: moved.from, to, mode, memoryMiB, seconds, mib: Math.round(moved.bytes / 2 ** 20) };
    print(
      output,
      output.json ? JSON.stringify(line) : `${line.from} → ${to}  ${mode}  ${memoryMiB} MiB  ${line.mib} MiB sent  ${seconds} s`,
    );
  }
}

async function submit(connection: Connection, json: object): Promise<Task> {
  const request: RequestOptions = { method: 'POST', json, headers: { 'idempotency-key': randomUUID() } };
  return withRetry(() => callJson<Task>(connection, '/v1/tasks', request));
}

async function waitForState(connection: Connection, id: string, wanted: string): Promise<Task> {
  const end = Date.now() + deadlineMs;
  const isDone = ({ state }: Task) =>
    state === wanted || ['succeeded', 'failed', 'cancelled'].includes(state) || Date.now() > end;
  const task = await poll(() => callJson<Task>(connection, `/v1/tasks/${id}`), isDone, pollMs);
  if (task.state === wanted) return task;
  throw new CommandError(`${id} is ${task.state}: ${task.error?.message ?? 'it takes too long'}`);
}

async function waitForMigration(connection: Connection, id: string): Promise<Migration> {
  const end = Date.now() + deadlineMs;
  const isDone = ({ state }: Migration) => state === 'succeeded' || state === 'rolledBack' || Date.now() > end;
  const migration = await poll(() => callJson<Migration>(connection, `/v1/migrations/${id}`), isDone, pollMs);
  if (migration.state === 'succeeded') return migration;
  throw new CommandError(`${id} is ${migration.state}: ${migration.error?.message ?? 'it takes too long'}`);
}
