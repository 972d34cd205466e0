import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import {
  CallError,
  CommandError,
  type Connection,
  call,
  callJson,
  list,
  poll,
  type Session,
  UsageError,
  withRetry,
} from '../client.ts';
import { resolveVm } from '../names.ts';
import { booleans, collect, given, splitPair, wholeNumber, yesNo } from '../options.ts';
import { type Output, printOne, printRows, writeBytes } from '../output.ts';
import { addRuleOptions, type RuleOptions, rulesOf } from '../rules.ts';
import { ConsoleStream } from '../streams/console-stream.ts';
import { withRawTerminal } from '../streams/terminal.ts';
import { time } from '../times.ts';
import { fileIdOf } from './files.ts';
import { leaseOf } from './leases.ts';

interface Vm {
  id: string;
  name: string;
  state: string;
  pausedBy: string | null;
  host: string | null;
  address: string | null;
  operation: string | null;
  task: string | null;
  problem: { code: string; message: string } | null;
}

interface CreateOptions extends RuleOptions {
  quote?: string;
  image: string;
  vcpus?: number;
  memoryMib?: number;
  diskMib?: number;
  rootMib?: number;
  swapMib?: number;
  extraDiskMib: string[];
  durationS?: number;
  reserveAt?: string;
  immediate?: boolean;
  user?: string;
  sshKey?: string;
  file: string[];
  run: string[];
  restart?: string;
  publish: string[];
  wait?: boolean;
}

interface SetOptions extends RuleOptions {
  pinned?: string;
  keep?: string;
  /** False: none. */
  rules: boolean;
}

const pollMs = 500;

const vmPath = (id: string, rest = ''): string => `/v1/vms/${encodeURIComponent(id)}${rest}`;

async function orderOf(connection: Connection, output: Output, name: string, options: CreateOptions): Promise<object> {
  const { image, user, sshKey } = options;
  if ((user === undefined) !== (sshKey === undefined)) throw new UsageError('--user and --ssh-key go together');
  const files = [];
  for (const text of options.file) {
    const [path, source] = splitPair(text, '--file');
    files.push({ path, file: await fileIdOf(connection, output, source) });
  }
  return given({
    name,
    image,
    resources: { vcpus: options.vcpus ?? 1, memoryMiB: options.memoryMib ?? 256, diskMiB: options.diskMib ?? 512 },
    rootMiB: options.rootMib,
    swapMiB: options.swapMib,
    extraDisksMiB: options.extraDiskMib.map(wholeNumber),
    lease: leaseOf(options),
    ...rulesOf(options),
    quote: options.quote,
    restart: options.restart,
    user: user && sshKey && { name: user, sshKey: (await readFile(sshKey, 'utf8')).trim() },
    files,
    firstBoot: options.run,
    ports: options.publish.map((port) => ({ port: wholeNumber(port) })),
  });
}

const getVm = (connection: Connection, id: string): Promise<Vm> => callJson<Vm>(connection, vmPath(id));

const waitUntil = (connection: Connection, id: string, isDone: (vm: Vm) => boolean): Promise<Vm> =>
  poll(() => getVm(connection, id), isDone, pollMs);

/** The end of the console, also of a VM that does not run. */
async function copyConsole(connection: Connection, output: Output, id: string, tail: number): Promise<void> {
  try {
    const headers = { range: `bytes=-${tail}` };
    const response = await withRetry(() => call(connection, vmPath(id, '/console'), { headers }));
    for await (const bytes of response.body as AsyncIterable<Uint8Array>) await writeBytes(output.out, bytes);
  } catch (error) {
    // There is nothing of it yet.
    if (!(error instanceof CallError && error.status === 416)) throw error;
  }
}

/** As it is written, wherever the VM moves. @returns false: it does not run */
async function followConsole(connection: Connection, { out }: Output, vm: string, tail: number): Promise<boolean> {
  const onOutput = (bytes: Uint8Array) => writeBytes(out, bytes);
  try {
    await new ConsoleStream(connection, { vm, tailBytes: tail, write: false, onOutput, onWriting: () => undefined }).run();
    return true;
  } catch (error) {
    if (error instanceof CallError && error.status === 409) return false;
    throw error;
  }
}

const leaveKey = 0x1d;

async function useConsole(connection: Connection, { out, err }: Output, vm: string, { tail }: { tail: number }): Promise<void> {
  const stream = new ConsoleStream(connection, {
    vm,
    tailBytes: tail,
    write: true,
    onOutput: (bytes) => writeBytes(out, bytes),
    onWriting: (writing) => err.write(writing ? '' : '\r\nberth: another client has the keyboard, or the VM has none yet\r\n'),
  });
  process.stdin.on('data', (bytes: Buffer) => {
    const end = bytes.indexOf(leaveKey);
    stream.type(end === -1 ? bytes : bytes.subarray(0, end));
    if (end !== -1) stream.close();
  });
  process.stdin.once('end', () => stream.close());
  await withRawTerminal(() => stream.run());
  process.stdin.destroy();
}

/** Ends the command with the problem of a VM that is not as it was asked to be. */
function refuseProblem(vm: Vm): void {
  if (vm.problem !== null) throw new CommandError(`${vm.id} is ${vm.state}: ${vm.problem.message} (${vm.problem.code})`);
}

export function addVmCommands(program: Command, { connect, output }: Session): Command {
  const vms = program.command('vms').description('make VMs that last, and operate them');

  addRuleOptions(vms.command('create'))
    .description('make a VM')
    .argument('<name>', 'a DNS label: its host name')
    .requiredOption('--image <name>', 'what it is made from')
    .option('--vcpus <n>', 'processors', wholeNumber)
    .option('--memory-mib <n>', 'memory', wholeNumber)
    .option('--disk-mib <n>', 'data disk, at /home/task', wholeNumber)
    .option('--root-mib <n>', 'what the root file system is grown to', wholeNumber)
    .option('--swap-mib <n>', 'swap', wholeNumber)
    .option('--extra-disk-mib <n>', 'a further disk, empty; may be repeated', collect, [])
    .option('--duration-s <n>', 'its lease; without it, until it is deleted', wholeNumber)
    .option('--quote <id>', 'a quote of `berth quote`: it is billed at its prices, or refused')
    .addOption(
      new Option('--reserve-at <time>', 'be there then, or refuse: RFC 3339, or 15m, 2h, +900 from now on').argParser(time),
    )
    .option('--immediate', 'be there as soon as it can, or refuse')
    .option('--user <name>', 'a user to be made')
    .option('--ssh-key <path>', 'file with the public key of that user')
    .option('--file <path=source>', 'a file in the guest: @local-file, or id or name of a stored file', collect, [])
    .option('--run <line>', 'a line for sh at the first boot; may be repeated', collect, [])
    .addOption(
      new Option('--restart <when>', 'whether it is booted again after its host was restarted, or it crashed').choices([
        'never',
        'always',
      ]),
    )
    .option('--publish <port>', 'a TCP port that clients outside reach; may be repeated', collect, [])
    .option('--wait', 'until it runs')
    .addHelpText(
      'after',
      '\nExample:\n  berth vms create web --image debian-12 --user ann --ssh-key ~/.ssh/id_ed25519.pub --wait',
    )
    .action(async (name: string, options: CreateOptions) => {
      const json = await orderOf(connect(), output(), name, options);
      const headers = { 'idempotency-key': randomUUID() };
      const vm = await withRetry(() => callJson<Vm>(connect(), '/v1/vms', { method: 'POST', json, headers }));
      if (!options.wait) return printOne(output(), vm);
      const made = await waitUntil(connect(), vm.id, ({ state }) => ['running', 'stuck', 'removed'].includes(state));
      refuseProblem(made);
      printOne(output(), made);
    });

  vms
    .command('list', { isDefault: true })
    .alias('ls')
    .description('list VMs, newest first')
    .option('--limit <n>', 'at most so many', wholeNumber, 100)
    .addHelpText('after', '\nExample:\n  berth vms list --limit 10')
    .action(async ({ limit }: { limit: number }) => {
      printRows(output(), await list<Vm>(connect(), '/v1/vms', {}, limit), {
        id: (vm) => vm.id,
        name: (vm) => vm.name,
        state: (vm) => (vm.pausedBy === null ? vm.state : `${vm.state} (${vm.pausedBy})`),
        host: (vm) => vm.host ?? '-',
        address: (vm) => vm.address ?? '-',
        task: (vm) => vm.task ?? '-',
      });
    });

  vms
    .command('show')
    .description('describe a VM')
    .argument('<vm>', 'its id or name')
    .addHelpText('after', '\nExample:\n  berth vms show web')
    .action(async (which: string) => printOne(output(), await getVm(connect(), await resolveVm(connect(), which))));

  addRuleOptions(vms.command('set'))
    .description('change how the balancer treats a VM, and where it may run next')
    .argument('<vm>', 'its id or name')
    .addOption(new Option('--pinned <answer>', 'never move it').choices(yesNo))
    .addOption(new Option('--keep <answer>', 'move it only where much more is gained than it costs').choices(yesNo))
    .option('--no-rules', 'it may run anywhere')
    .addHelpText(
      'after',
      '\nExamples:\n  berth vms set web --pinned yes\n  berth vms set web --anti-affinity web --host-label disk=ssd',
    )
    .action(async (which: string, { hostLabel, affinity, antiAffinity, rules, ...answers }: SetOptions) => {
      const id = await resolveVm(connect(), which);
      const none = rules ? {} : { hostLabels: [], affinity: [], antiAffinity: [] };
      const json = { ...booleans(answers), ...none, ...rulesOf({ hostLabel, affinity, antiAffinity }) };
      printOne(output(), await callJson<Vm>(connect(), vmPath(id), { method: 'PATCH', json }));
    });

  vms
    .command('delete')
    .alias('rm')
    .description('delete a VM and all that is on it')
    .argument('<vm>', 'its id or name')
    .option('--wait', 'until nothing is left of it')
    .addHelpText('after', '\nExample:\n  berth vms delete web --wait')
    .action(async (which: string, { wait }: { wait?: boolean }) => {
      const id = await resolveVm(connect(), which);
      await withRetry(() => callJson<Vm>(connect(), vmPath(id), { method: 'DELETE' }));
      printOne(output(), await waitUntil(connect(), id, ({ state }) => !wait || state === 'removed'));
    });

  vms
    .command('console')
    .description('print what the guest wrote to its serial port')
    .argument('<vm>', 'its id or name')
    .option('--tail <bytes>', 'the last so many', wholeNumber, 64 * 1024)
    .option('-f, --follow', 'go on until interrupted')
    .option('-i, --interactive', 'type into it as well, taking the keyboard over from another client; Ctrl-] leaves')
    .addHelpText('after', '\nExamples:\n  berth vms console web --follow\n  berth vms console -i web')
    .action(async (which: string, options: { tail: number; follow?: boolean; interactive?: boolean }) => {
      const id = await resolveVm(connect(), which);
      if (options.interactive) return useConsole(connect(), output(), id, options);
      if (options.follow && (await followConsole(connect(), output(), id, options.tail))) return;
      await copyConsole(connect(), output(), id, options.tail);
    });

  for (const name of ['pause', 'resume', 'suspend', 'restore', 'reboot'])
    vms
      .command(name)
      .description(`${name} a VM, and wait for it`)
      .argument('<vm>', 'its id or name')
      .addHelpText('after', `\nExample:\n  berth vms ${name} web`)
      .action(async (which: string) => {
        const id = await resolveVm(connect(), which);
        const headers = { 'idempotency-key': randomUUID() };
        await withRetry(() => callJson<Vm>(connect(), vmPath(id, `/${name}`), { method: 'POST', headers }));
        const vm = await waitUntil(connect(), id, ({ operation }) => operation === null);
        refuseProblem(vm);
        printOne(output(), vm);
      });
  return vms;
}
