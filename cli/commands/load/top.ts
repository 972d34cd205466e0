import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { callJson, type Session, withRetry } from '../../client.ts';
import { resolveVm } from '../../names.ts';
import { given, positiveNumber } from '../../options.ts';
import { type Output, print, printOne, printRows } from '../../output.ts';

type Load = Record<string, number | null>;

interface BusyHost {
  host: string;
  at: string;
  processors: number;
  vms: number;
  capacity: { memoryMiB: number; diskMiB: number };
  load: Load;
}

interface BusyVm {
  vm: string;
  name: string;
  host: string;
  vcpus: number;
  memoryMiB: number;
  at: string;
  load: Load;
}

const percent = (value: number | null | undefined): string => (value == null ? '-' : `${(100 * value).toFixed(0)} %`);
const decimal = (value: number | null | undefined): string => (value == null ? '-' : value.toFixed(2));
const of = (value: number | null | undefined, all: number): string => (value == null ? '-' : `${Math.round(value)}/${all}`);
const disks = ({ load }: { load: Load }): string => `${decimal(load.readMiBPerS)}/${decimal(load.writtenMiBPerS)}`;
const network = ({ load }: { load: Load }): string => `${decimal(load.receivedMiBPerS)}/${decimal(load.sentMiBPerS)}`;
const age = ({ at }: { at: string }): string => `${Math.max(0, Math.round((Date.now() - Date.parse(at)) / 1000))} s`;

const hostColumns = {
  host: ({ host }: BusyHost) => host,
  use: ({ load }: BusyHost) => percent(load.use),
  steal: ({ load }: BusyHost) => percent(load.steal),
  processors: ({ processors }: BusyHost) => processors,
  vms: ({ vms }: BusyHost) => vms,
  'memory MiB': ({ load, capacity }: BusyHost) => of(load.memoryMiB, capacity.memoryMiB),
  'disk MiB': ({ load, capacity }: BusyHost) => of(load.diskMiB, capacity.diskMiB),
  'disks MiB/s': disks,
  'network MiB/s': network,
  age,
};

const vmColumns = {
  vm: ({ vm }: BusyVm) => vm,
  name: ({ name }: BusyVm) => name,
  host: ({ host }: BusyVm) => host,
  cpus: ({ load, vcpus }: BusyVm) => `${decimal(load.cpus)}/${vcpus}`,
  steal: ({ load }: BusyVm) => percent(load.steal),
  'memory MiB': ({ load, memoryMiB }: BusyVm) => of(load.memoryMiB, memoryMiB),
  'disks MiB/s': disks,
  'network MiB/s': network,
  age,
};

interface GuestView {
  loadAverages: number[];
  uptimeS: number;
  memory: { totalMiB: number; availableMiB: number } | null;
  processes: number;
  items: { pid: number; name: string; state: string; cpus: number; cpuS: number; memoryMiB: number; threads: number }[];
}

type GuestProcess = GuestView['items'][number];

const processColumns = {
  pid: ({ pid }: GuestProcess) => pid,
  state: ({ state }: GuestProcess) => state,
  cpus: ({ cpus }: GuestProcess) => cpus.toFixed(2),
  'time s': ({ cpuS }: GuestProcess) => cpuS.toFixed(1),
  'memory MiB': ({ memoryMiB }: GuestProcess) => memoryMiB,
  threads: ({ threads }: GuestProcess) => threads,
  name: ({ name }: GuestProcess) => name,
};

interface TopOptions {
  limit: number;
  every?: number;
}

/** Adds `top` to the commands of hosts and of VMs: the busiest now, or the processes of one VM, once or again and again. */
export function addTopCommands(vms: Command, hosts: Command, { connect, output }: Session): void {
  async function showProcesses(which: string, { limit, every }: TopOptions): Promise<void> {
    const connection = connect();
    const id = await resolveVm(connection, which);
    const path = `/v1/vms/${encodeURIComponent(id)}/processes?limit=${limit}`;
    await showAgain(output(), every, async () => {
      const view = await withRetry(() => callJson<GuestView>(connection, path));
      if (output().json) return printOne(output(), view);
      const { loadAverages, uptimeS, memory, processes, items } = view;
      const free = memory === null ? '' : `, ${memory.availableMiB} of ${memory.totalMiB} MiB available`;
      print(output(), `${processes} processes, load ${loadAverages.join(' ')}, up ${Math.round(uptimeS)} s${free}`);
      printRows(output(), items, processColumns);
    });
  }

  const add = <T>(command: Command, what: string, columns: Record<string, (row: T) => unknown>): Command => {
    const top = command
      .command('top')
      .description(`the busiest ${what}, by their last samples`)
      .option('-n, --limit <number>', 'how many', positiveNumber, 30)
      .option('--every <seconds>', 'show them again and again, so many seconds apart', positiveNumber)
      .addHelpText(
        'after',
        `\nRates are read/written and received/sent.\n\nExample:\n  berth ${what.toLowerCase()} top --every 10`,
      )
      .action(async (...given: unknown[]) => {
        const { limit, every } = (given.at(-1) as Command).opts<TopOptions>();
        const [vm] = given;
        if (typeof vm === 'string') return showProcesses(vm, { limit, ...(every !== undefined && { every }) });
        const connection = connect();
        const read = () => callJson<{ items: T[] }>(connection, `/v1/top/${what.toLowerCase()}?limit=${limit}`);
        await showAgain(output(), every, async () => printRows(output(), (await withRetry(read)).items, columns));
      });
    return top;
  };
  add<BusyHost>(hosts, 'hosts', hostColumns);
  add<BusyVm>(vms, 'VMs', vmColumns).argument('[vm]', 'its id or name: the processes in it, as its guest says');
}

async function showAgain(output: Output, everyS: number | undefined, show: () => Promise<void>): Promise<void> {
  for (;;) {
    await show();
    if (everyS === undefined) return;
    await pause(everyS * 1000);
    print(output, '');
  }
}

interface LoadOptions {
  kind?: string;
  cpus?: number;
  memoryMib?: number;
  seconds?: number;
}

const decimalNumber = (text: string): number => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('expected a number above 0');
  return value;
};

/** Adds `load` to the commands of VMs: a load that the guest makes for itself. */
export function addLoadCommand(vms: Command, { connect, output }: Session): void {
  vms
    .command('load')
    .description('load a VM, and wait until that has ended, to see what the site does about it')
    .argument('<vm>', 'its id or name')
    .addOption(new Option('--kind <what>', 'what is used').choices(['processors', 'memory', 'disk']))
    .option('--cpus <number>', 'processors that are kept busy, such as 1.5', decimalNumber)
    .option('--memory-mib <number>', 'memory that is held, or written to the disk again and again', positiveNumber)
    .option('--seconds <number>', 'for how long; 60 unless said', positiveNumber)
    .addHelpText('after', '\nExample:\n  berth vms load web --cpus 1 --seconds 20')
    .action(async (which: string, { kind, cpus, memoryMib, seconds }: LoadOptions) => {
      const connection = connect();
      const id = await resolveVm(connection, which);
      const json = given({ kind, cpus, memoryMiB: memoryMib, seconds });
      const headers = { 'idempotency-key': randomUUID() };
      // Not again after a lost connection: that has ended the load, and it would begin anew.
      printOne(
        output(),
        await callJson(connection, `/v1/vms/${encodeURIComponent(id)}/load`, {
          method: 'POST',
          json,
          headers,
          answerMs: 2 * 3600_000,
        }),
      );
    });
}
