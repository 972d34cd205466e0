import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { type Command, Option } from 'commander';
import { CallError, type Connection, call, callJson, list, patiently, UsageError } from './client.ts';
import { upload } from './files.ts';
import { leaseOf } from './leases.ts';
import { moment } from './moment.ts';
import { several, whole } from './options.ts';
import { printOne, printRows, type Screen } from './show.ts';

interface Vm {
  id: string;
  name: string;
  state: string;
  host: string | null;
  address: string | null;
  operation: string | null;
  task: string | null;
  problem: { code: string; message: string } | null;
}

interface CreateOptions {
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
  wait?: boolean;
}

const lookMs = 500;
const path = (id: string) => `/v1/vms/${encodeURIComponent(id)}`;
const keyed = () => ({ 'idempotency-key': randomUUID() });

/** `/etc/app.conf=@app.conf` uploads; `/etc/app.conf=file_…` names what is there. */
async function file(connected: Connection, screen: Screen, text: string): Promise<object> {
  const at = text.indexOf('=');
  if (at < 1) throw new UsageError(`--file ${JSON.stringify(text)} is not path=@file or path=id`);
  const source = text.slice(at + 1);
  return {
    path: text.slice(0, at),
    file: source.startsWith('@') ? (await upload(connected, screen, source.slice(1))).id : source,
  };
}

async function order(connected: Connection, screen: Screen, name: string, options: CreateOptions): Promise<object> {
  const { image, user, sshKey, rootMib, swapMib } = options;
  const lease = leaseOf(options);
  if ((user === undefined) !== (sshKey === undefined)) throw new UsageError('--user and --ssh-key go together');
  const size = { vcpus: options.vcpus ?? 1, memoryMiB: options.memoryMib ?? 256, diskMiB: options.diskMib ?? 512 };
  return {
    name,
    image,
    resources: size,
    ...(rootMib !== undefined && { rootMiB: rootMib }),
    ...(swapMib !== undefined && { swapMiB: swapMib }),
    extraDisksMiB: options.extraDiskMib.map((size) => whole(size)),
    ...(lease !== undefined && { lease }),
    ...(user !== undefined && sshKey !== undefined && { user: { name: user, sshKey: (await readFile(sshKey, 'utf8')).trim() } }),
    files: await Promise.all(options.file.map((one) => file(connected, screen, one))),
    firstBoot: options.run,
  };
}

/** Follows a VM until it is as it was asked to be; a problem that came meanwhile is the command's end. */
async function until(connected: Connection, id: string, isSo: (vm: Vm) => boolean): Promise<Vm> {
  for (;;) {
    const vm = await patiently(() => callJson<Vm>(connected, path(id)));
    if (isSo(vm)) return vm;
    await pause(lookMs);
  }
}

/** One range of it: the bytes, and where the next ones will be. null: there is nothing of that range yet. */
async function readConsole(connected: Connection, id: string, range: string): Promise<{ text: Buffer; next: number } | null> {
  try {
    const answer = await patiently(() => call(connected, `${path(id)}/console`, { headers: { range: `bytes=${range}` } }));
    const text = Buffer.from(await answer.body.arrayBuffer());
    const first = /^bytes (\d+)-/.exec(String(answer.headers['content-range']))?.[1];
    return { text, next: Number(first) + text.length };
  } catch (error) {
    if (error instanceof CallError && error.status === 416) return null;
    throw error;
  }
}

async function printConsole(
  connected: Connection,
  id: string,
  { tail, follow }: { tail: number; follow?: boolean },
): Promise<void> {
  let range = `-${tail}`;
  for (;;) {
    const part = await readConsole(connected, id, range);
    if (part !== null) {
      process.stdout.write(part.text);
      range = `${part.next}-`;
    }
    if (!follow) return;
    if (part === null) await pause(lookMs);
  }
}

function refuseProblem(vm: Vm): void {
  if (vm.problem !== null) throw new CallError(`${vm.id} is ${vm.state}: ${vm.problem.message} (${vm.problem.code})`, null);
}

export function addVmCommands(program: Command, connect: () => Connection, screen: () => Screen): void {
  const vms = program.command('vms').description('make VMs that last, and operate them');

  vms
    .command('create')
    .description('make a VM')
    .argument('<name>', 'a DNS label: its host name')
    .requiredOption('--image <name>', 'what it is made from')
    .option('--vcpus <n>', 'processors', whole)
    .option('--memory-mib <n>', 'memory', whole)
    .option('--disk-mib <n>', 'data disk, at /home/task', whole)
    .option('--root-mib <n>', 'what the root file system is grown to', whole)
    .option('--swap-mib <n>', 'swap', whole)
    .option('--extra-disk-mib <n>', 'a further disk, empty', several, [])
    .option('--duration-s <n>', 'its lease; without it, until it is deleted', whole)
    .addOption(new Option('--reserve-at <time>', 'be there then, or refuse: RFC 3339, or +seconds from now').argParser(moment))
    .option('--immediate', 'be there as soon as it can, or refuse')
    .option('--user <name>', 'a user to be made')
    .option('--ssh-key <path>', 'file with the public key of that user')
    .option('--file <path=source>', 'a file in the guest: @local, or the id of a stored one', several, [])
    .option('--run <line>', 'a line for sh at the first boot', several, [])
    .option('--wait', 'until it runs')
    .addHelpText(
      'after',
      '\nExample:\n  berth vms create web --image debian-12 --user ann --ssh-key ~/.ssh/id_ed25519.pub --wait',
    )
    .action(async (name: string, options: CreateOptions) => {
      const json = await order(connect(), screen(), name, options);
      const headers = keyed();
      const vm = await patiently(() => callJson<Vm>(connect(), '/v1/vms', { method: 'POST', json, headers }));
      if (!options.wait) return printOne(screen(), vm);
      const made = await until(connect(), vm.id, ({ state }) => ['running', 'stuck', 'removed'].includes(state));
      refuseProblem(made);
      printOne(screen(), made);
    });

  vms
    .command('list', { isDefault: true })
    .alias('ls')
    .description('list VMs, newest first')
    .option('--limit <n>', 'at most so many', whole, 100)
    .action(async ({ limit }: { limit: number }) => {
      printRows(screen(), await list<Vm>(connect(), '/v1/vms', {}, limit), {
        id: (vm) => vm.id,
        name: (vm) => vm.name,
        state: (vm) => vm.state,
        host: (vm) => vm.host ?? '-',
        address: (vm) => vm.address ?? '-',
        task: (vm) => vm.task ?? '-',
      });
    });

  vms
    .command('show')
    .description('describe a VM')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await callJson<Vm>(connect(), path(id))));

  vms
    .command('delete')
    .alias('rm')
    .description('delete a VM and all that is on it')
    .argument('<id>')
    .option('--wait', 'until nothing is left of it')
    .action(async (id: string, { wait }: { wait?: boolean }) => {
      await patiently(() => callJson<Vm>(connect(), path(id), { method: 'DELETE' }));
      printOne(screen(), await until(connect(), id, ({ state }) => !wait || state === 'removed'));
    });

  vms
    .command('console')
    .description('print what the guest wrote to its serial port')
    .argument('<id>')
    .option('--tail <bytes>', 'the last so many', whole, 64 * 1024)
    .option('-f, --follow', 'go on until interrupted')
    .action((id: string, options: { tail: number; follow?: boolean }) => printConsole(connect(), id, options));

  for (const name of ['pause', 'resume', 'suspend', 'restore', 'reboot'])
    vms
      .command(name)
      .description(`${name} a VM, and wait for it`)
      .argument('<id>')
      .action(async (id: string) => {
        const headers = keyed();
        await patiently(() => callJson<Vm>(connect(), `${path(id)}/${name}`, { method: 'POST', headers }));
        const vm = await until(connect(), id, ({ operation }) => operation === null);
        refuseProblem(vm);
        printOne(screen(), vm);
      });
}
