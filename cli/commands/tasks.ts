import { randomUUID } from 'node:crypto';
import { mkdir, stat } from 'node:fs/promises';
import { dirname, isAbsolute, join, normalize } from 'node:path';
import type { Command } from 'commander';
import { CommandError, type Connection, callJson, list, poll, type Session, withRetry } from '../client.ts';
import { copyLog } from '../logs.ts';
import { resolveTask } from '../names.ts';
import { collect, given, readJson, splitPair, unlessEmpty, wholeNumber } from '../options.ts';
import { type Output, print, printOne, printRows } from '../output.ts';
import { addRuleOptions, type RuleOptions, rulesOf } from '../rules.ts';
import { download, fileIdOf } from './files.ts';
import { addLeaseOptions, type LeaseOptions, leaseOf } from './leases.ts';
import { manifestPath, restoreOutputs } from './restore-outputs.ts';

interface TaskOutput {
  path: string;
  node: number;
  file: string;
  sizeBytes: number;
  sha256: string;
}

interface Task {
  id: string;
  name: string;
  state: string;
  nodes: number;
  hosts: string[];
  exitCode: number | null;
  error: { code: string; message: string } | null;
  outputs: TaskOutput[];
  outputManifest?: boolean;
  skippedOutputs: { path: string; node: number; reason: string; detail: string }[];
  skippedOutputsCount: number;
  createdAt: string;
}

interface SubmitOptions extends LeaseOptions, RuleOptions {
  quote?: string;
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
  onMissingOutput?: string;
  keepOutputs?: boolean;
  outputManifest?: boolean;
}

const finishedStates = new Set(['succeeded', 'failed', 'cancelled']);
const isFinished = ({ state }: Task): boolean => finishedStates.has(state);

const taskPath = (id: string, rest = ''): string => `/v1/tasks/${encodeURIComponent(id)}${rest}`;

async function inputOf(connection: Connection, output: Output, text: string): Promise<object> {
  const [path, source] = splitPair(text, '--input');
  if (/^https?:/.test(source)) return { path, url: source };
  const file = await fileIdOf(connection, output, source);
  return (await isLocalProgram(source)) ? { path, file, mode: '0755' } : { path, file };
}

/** A local file that its owner may execute stays a program in the guest. */
async function isLocalProgram(source: string): Promise<boolean> {
  return source.startsWith('@') && source !== '@-' && ((await stat(source.slice(1))).mode & 0o100) !== 0;
}

async function specOf(connection: Connection, output: Output, command: string[], options: SubmitOptions): Promise<object> {
  const fromFile = options.spec === undefined ? {} : await readJson(options.spec);
  const env = Object.fromEntries(options.env.map((text) => splitPair(text, '--env')));
  const inputs = [];
  for (const text of options.input) inputs.push(await inputOf(connection, output, text));
  const fields = given({
    name: options.name,
    image: options.image,
    command: unlessEmpty(command),
    env: unlessEmpty(env),
    inputs: unlessEmpty(inputs),
    outputs: unlessEmpty(options.output),
    resources: unlessEmpty(given({ vcpus: options.vcpus, memoryMiB: options.memoryMib, diskMiB: options.diskMib })),
    onMissingOutput: options.onMissingOutput,
    keepOutputs: options.keepOutputs,
    outputManifest: options.outputManifest,
    nodes: options.nodes,
    timeoutS: options.timeoutS,
    lease: leaseOf(options),
    ...rulesOf(options),
    quote: options.quote,
  });
  return { ...fromFile, ...fields };
}

const getTask = (connection: Connection, id: string): Promise<Task> => callJson<Task>(connection, taskPath(id));

const waitFor = (connection: Connection, id: string): Promise<Task> => poll(() => getTask(connection, id), isFinished);

const logPath = (id: string, node: string, follow: boolean): string =>
  taskPath(id, `/log?${new URLSearchParams({ node, follow: follow ? '1' : '0' })}`);

/** How a finished task ends the command: with the task's own exit code, or 1 where it failed without one. */
function exitCodeOf(task: Task): number {
  if (task.state === 'succeeded') return 0;
  return task.exitCode !== null && task.exitCode !== 0 ? task.exitCode : 1;
}

function printEnd(output: Output, task: Task): void {
  if (output.json) printOne(output, task);
  else {
    print(output, `${task.id} ${task.state}${task.error ? `: ${task.error.message} (${task.error.code})` : ''}`);
    const { skippedOutputs, skippedOutputsCount } = task;
    for (const { path, reason, detail } of skippedOutputs)
      print(output, `  not stored: ${path === '' ? '/home/task' : path} (${reason}): ${detail}`);
    if (skippedOutputsCount > skippedOutputs.length) print(output, `  not stored: ${skippedOutputsCount} in all`);
  }
}

/** Where in `folder` an output goes. A guest chose its path, which must not lead out of there. */
function placeOf({ nodes }: Task, { path, node }: TaskOutput, folder: string): string {
  const inside = normalize(path);
  if (isAbsolute(inside) || inside.split('/').includes('..')) throw new CommandError(`The output ${path} would leave the folder`);
  return nodes > 1 ? join(folder, `node${node}`, inside) : join(folder, inside);
}

/** Modes, times and empty folders, by the manifest of each node. */
async function restoreAll(task: Task, to: string): Promise<void> {
  for (const manifest of task.outputs.filter(({ path }) => path === manifestPath)) {
    const fetched = task.outputs.filter(({ node }) => node === manifest.node).map(({ path }) => path);
    await restoreOutputs(placeOf(task, manifest, to), (path) => placeOf(task, { ...manifest, path }, to), new Set(fetched));
  }
}

export function addTaskCommands(program: Command, { connect, output }: Session): void {
  const tasks = program.command('tasks').description('run commands in VMs');

  addRuleOptions(addLeaseOptions(tasks.command('submit')))
    .description('submit a task and print its id')
    .argument('[command...]', 'program and arguments, after --')
    .option('-f, --spec <path>', 'a task as JSON; - for the standard input; other options change it')
    .option('--image <name>', 'what its VMs are made from')
    .option('--name <name>', 'what it is to be called')
    .option('--input <path=source>', 'source: @local-file, id or name of a stored file, or URL; may be repeated', collect, [])
    .option('--output <pattern>', 'what to keep; may be repeated', collect, [])
    .option('--on-missing-output <what>', 'fail or warn, when an output is missing or can not be stored')
    .option('--output-manifest', 'store modes, times, empty folders and links as well; `fetch` restores them')
    .option('--keep-outputs', 'store outputs also when it is cancelled or its time is over')
    .option('--env <name=value>', 'a variable of its environment; may be repeated', collect, [])
    .option('--vcpus <n>', 'processors of each VM', wholeNumber)
    .option('--memory-mib <n>', 'memory of each VM', wholeNumber)
    .option('--disk-mib <n>', 'size of the data disk', wholeNumber)
    .option('--nodes <n>', 'how many VMs', wholeNumber)
    .option('--timeout-s <n>', 'how long the command may run', wholeNumber)
    .option('--quote <id>', 'a quote of `berth quote`: it is billed at its prices, or refused')
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
      const [connection, shown] = [connect(), output()];
      const json = await specOf(connection, shown, command, options);
      const headers = { 'idempotency-key': randomUUID() };
      const { id } = await withRetry(() => callJson<Task>(connection, '/v1/tasks', { method: 'POST', json, headers }));
      const waits = options.follow || options.wait;
      if (!waits) return print(shown, shown.json ? JSON.stringify(await getTask(connection, id), null, 2) : id);
      if (!shown.json) shown.err.write(`${id}\n`);
      if (options.follow) await copyLog(connection, logPath(id, '0', true), shown.out);
      const task = await waitFor(connection, id);
      printEnd(options.follow ? { ...shown, out: shown.err } : shown, task);
      process.exitCode = exitCodeOf(task);
    });

  tasks
    .command('ls')
    .description('list tasks, newest first')
    .option('--state <state>', 'only tasks in this state')
    .option('--limit <n>', 'how many', wholeNumber, 50)
    .addHelpText('after', '\nExample:\n  berth tasks ls --state running')
    .action(async ({ state, limit }: { state?: string; limit: number }) => {
      const query: Record<string, string> = state === undefined ? {} : { state };
      printRows(output(), await list<Task>(connect(), '/v1/tasks', query, limit), {
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
    .argument('<task>', 'its id or name')
    .addHelpText('after', '\nExample:\n  berth tasks show count --json')
    .action(async (which: string) => printOne(output(), await getTask(connect(), await resolveTask(connect(), which))));

  tasks
    .command('log')
    .description('print what the command printed')
    .argument('<task>', 'its id or name')
    .option('--node <n>', 'of which node', '0')
    .option('--follow', 'go on until the task is over')
    .addHelpText('after', '\nExample:\n  berth tasks log count --node 1 --follow')
    .action(async (which: string, { node, follow }: { node: string; follow?: boolean }) =>
      copyLog(connect(), logPath(await resolveTask(connect(), which), node, follow ?? false), output().out),
    );

  tasks
    .command('fetch')
    .description('fetch what a task wrote, and print where each file is')
    .argument('<task>', 'its id or name')
    .option('--to <folder>', 'where to; with several nodes, each gets a folder there', '.')
    .addHelpText('after', '\nExample:\n  berth tasks fetch count --to results')
    .action(async (which: string, { to }: { to: string }) => {
      const task = await getTask(connect(), await resolveTask(connect(), which));
      for (const one of task.outputs) {
        const path = placeOf(task, one, to);
        await mkdir(dirname(path), { recursive: true });
        await download(connect(), output(), { ...one, id: one.file, name: one.path }, path);
        print(output(), output().json ? JSON.stringify({ path }) : path);
      }
      if (task.outputManifest) await restoreAll(task, to);
    });

  tasks
    .command('cancel')
    .description('cancel tasks')
    .argument('<task...>', 'their ids or names')
    .addHelpText('after', '\nExample:\n  berth tasks cancel count')
    .action(async (names: string[]) => {
      for (const name of names) {
        const id = await resolveTask(connect(), name);
        const task = await callJson<Task>(connect(), taskPath(id), { method: 'DELETE' });
        print(output(), output().json ? JSON.stringify(task) : `${id} ${isFinished(task) ? task.state : 'will be cancelled'}`);
      }
    });

  tasks
    .command('wait')
    .description('wait until tasks are over; ends with the exit code of the first one that failed')
    .argument('<task...>', 'their ids or names')
    .addHelpText('after', '\nExample:\n  berth tasks wait count encode')
    .action(async (names: string[]) => {
      const ids = [];
      for (const name of names) ids.push(await resolveTask(connect(), name));
      for (const id of ids) {
        const task = await waitFor(connect(), id);
        printEnd(output(), task);
        process.exitCode ||= exitCodeOf(task);
      }
    });
}
