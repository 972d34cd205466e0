import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import { type Connection, call, callJson, list, patiently, UsageError } from './client.ts';
import { upload } from './files.ts';
import { type LeaseOptions, leaseOf, leaseOptions } from './leases.ts';
import { several, whole } from './options.ts';
import { print, printOne, printRows, type Screen } from './show.ts';

export interface Task {
  id: string;
  name: string;
  state: string;
  hosts: string[];
  exitCode: number | null;
  error: { code: string; message: string } | null;
  waiting: { hosts: number; failed: Record<string, number> } | null;
  createdAt: string;
  finishedAt: string | null;
}

interface SubmitOptions extends LeaseOptions {
  spec?: string;
  image?: string;
  name?: string;
  input: string[];
  output: string[];
  env: string[];
  vcpus?: number;
  memoryMib?: number;
  diskMib?: number;
  nodes?: number;
  timeoutS?: number;
  follow?: boolean;
  wait?: boolean;
}

const lookMs = 500;
const over = new Set(['succeeded', 'failed', 'cancelled']);

function split(text: string, what: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new UsageError(`${what} ${JSON.stringify(text)} is not name=value`);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** `in/words=@words.txt` uploads; `in/words=file_…` and `in/words=https://…` name what is there. */
async function input(connected: Connection, screen: Screen, text: string): Promise<object> {
  const [path, source] = split(text, '--input');
  if (source.startsWith('@')) return { path, file: (await upload(connected, screen, source.slice(1))).id };
  return /^https?:/.test(source) ? { path, url: source } : { path, file: source };
}

async function readSpec(path: string): Promise<object> {
  const text = await readFile(path === '-' ? '/dev/stdin' : path, 'utf8');
  try {
    return JSON.parse(text) as object;
  } catch (error) {
    throw new UsageError(`${path} is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Only what was given: the API has the defaults, and the last word on what is valid. */
function given(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function some<T extends object>(fields: T): T | undefined {
  return Object.keys(fields).length > 0 ? fields : undefined;
}

async function specOf(connected: Connection, screen: Screen, command: string[], options: SubmitOptions): Promise<object> {
  const base = options.spec === undefined ? {} : await readSpec(options.spec);
  const inputs = [];
  for (const text of options.input) inputs.push(await input(connected, screen, text));
  const fields = given({
    name: options.name,
    image: options.image,
    command: some(command),
    env: some(Object.fromEntries(options.env.map((text) => split(text, '--env')))),
    inputs: some(inputs),
    outputs: some(options.output),
    resources: some(given({ vcpus: options.vcpus, memoryMiB: options.memoryMib, diskMiB: options.diskMib })),
    nodes: options.nodes,
    timeoutS: options.timeoutS,
    lease: leaseOf(options),
  });
  return { ...base, ...fields };
}

export function getTask(connected: Connection, id: string): Promise<Task> {
  return callJson<Task>(connected, `/v1/tasks/${encodeURIComponent(id)}`);
}

/** Returns when the task is over; the API being away for a while doesn't matter. */
async function waitFor(connected: Connection, id: string): Promise<Task> {
  for (;;) {
    const task = await patiently(() => getTask(connected, id));
    if (over.has(task.state)) return task;
    await pause(lookMs);
  }
}

async function copyLog(connected: Connection, screen: Screen, id: string, node: string, follow: boolean): Promise<void> {
  const query = new URLSearchParams({ node, follow: follow ? '1' : '0' });
  const answer = await call(connected, `/v1/tasks/${encodeURIComponent(id)}/log?${query}`);
  for await (const chunk of answer.body) screen.out.write(chunk);
}

/** How a finished task ends the command: its own exit code where it has one, else 1 unless it succeeded. */
function exitCodeOf(task: Task): number {
  if (task.state === 'succeeded') return 0;
  return task.exitCode !== null && task.exitCode !== 0 ? task.exitCode : 1;
}

function printEnd(screen: Screen, task: Task): void {
  if (screen.json) printOne(screen, task);
  else print(screen, `${task.id} ${task.state}${task.error ? `: ${task.error.message} (${task.error.code})` : ''}`);
}

export function addTaskCommands(program: Command, connect: () => Connection, screen: () => Screen): void {
  const tasks = program.command('tasks').description('run commands in VMs');

  leaseOptions(tasks.command('submit'))
    .description('submit a task and print its id')
    .argument('[command...]', 'program and arguments, after --')
    .option('-f, --spec <path>', 'a task as JSON; - for the standard input; other options change it')
    .option('--image <name>')
    .option('--name <name>')
    .option('--input <path=source>', 'source: @local-file, file id or URL; may be repeated', several, [])
    .option('--output <pattern>', 'what to keep; may be repeated', several, [])
    .option('--env <name=value>', 'may be repeated', several, [])
    .option('--vcpus <n>', '', whole)
    .option('--memory-mib <n>', '', whole)
    .option('--disk-mib <n>', 'size of the data disk', whole)
    .option('--nodes <n>', 'how many VMs', whole)
    .option('--timeout-s <n>', 'how long the command may run', whole)
    .option('--follow', 'print what the first node prints, and wait for the end')
    .option('--wait', 'wait for the end')
    .addHelpText(
      'after',
      `
Examples:
  berth tasks submit --image debian-12 --input in/words=@words.txt --output 'out/*' -- sh -c 'mkdir out; wc -w in/words > out/count'
  berth tasks submit -f task.json --wait
  berth tasks submit --image debian-12 --reserve-at +600 --duration-s 1800 --nodes 3 -- ./simulate
  berth tasks submit --image debian-12 --nodes 2 --follow -- ping -c 3 node1`,
    )
    .action(async (command: string[], options: SubmitOptions) => {
      const [connected, shown] = [connect(), screen()];
      const json = await specOf(connected, shown, command, options);
      const headers = { 'idempotency-key': randomUUID() };
      const { id } = await patiently(() => callJson<Task>(connected, '/v1/tasks', { method: 'POST', json, headers }));
      const waits = options.follow || options.wait;
      if (!waits) return print(shown, shown.json ? JSON.stringify(await getTask(connected, id), null, 2) : id);
      if (!shown.json) shown.err.write(`${id}\n`);
      if (options.follow) await copyLog(connected, shown, id, '0', true);
      const task = await waitFor(connected, id);
      printEnd(options.follow ? { ...shown, out: shown.err } : shown, task);
      process.exitCode = exitCodeOf(task);
    });

  tasks
    .command('ls')
    .description('list tasks, newest first')
    .option('--state <state>', 'only tasks in this state')
    .option('--limit <n>', 'how many', whole, 50)
    .action(async ({ state, limit }: { state?: string; limit: number }) => {
      const query: Record<string, string> = state === undefined ? {} : { state };
      printRows(screen(), await list<Task>(connect(), '/v1/tasks', query, limit), {
        id: (task) => task.id,
        state: (task) => task.state,
        exit: (task) => task.exitCode,
        created: (task) => task.createdAt,
        hosts: (task) => task.hosts.join(','),
        name: (task) => task.name,
      });
    });

  tasks
    .command('show')
    .description('describe a task')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await getTask(connect(), id)));

  tasks
    .command('log')
    .description('print what the command printed')
    .argument('<id>')
    .option('--node <n>', 'of which node', '0')
    .option('--follow', 'go on until the task is over')
    .addHelpText('after', '\nExample:\n  berth tasks log task_01jd7x… --node 1 --follow')
    .action((id: string, { node, follow }: { node: string; follow?: boolean }) =>
      copyLog(connect(), screen(), id, node, follow ?? false),
    );

  tasks
    .command('cancel')
    .description('cancel tasks')
    .argument('<id...>')
    .action(async (ids: string[]) => {
      for (const id of ids) {
        const task = await callJson<Task>(connect(), `/v1/tasks/${encodeURIComponent(id)}`, { method: 'DELETE' });
        print(
          screen(),
          screen().json ? JSON.stringify(task) : `${id} ${over.has(task.state) ? task.state : 'will be cancelled'}`,
        );
      }
    });

  tasks
    .command('wait')
    .description('wait until tasks are over; ends with the exit code of the first one that failed')
    .argument('<id...>')
    .action(async (ids: string[]) => {
      for (const id of ids) {
        const task = await waitFor(connect(), id);
        printEnd(screen(), task);
        process.exitCode ||= exitCodeOf(task);
      }
    });
}
