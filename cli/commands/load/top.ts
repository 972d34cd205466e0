import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import { callJson, type Session, withRetry } from '../../client.ts';
import { positiveNumber } from '../../options.ts';
import { type Output, print, printRows } from '../../output.ts';

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

interface TopOptions {
  limit: number;
  every?: number;
}

/** Adds `top` to the commands of hosts and of VMs: the busiest now, once or again and again. */
export function addTopCommands(vms: Command, hosts: Command, { connect, output }: Session): void {
  const add = <T>(command: Command, what: string, columns: Record<string, (row: T) => unknown>): void => {
    command
      .command('top')
      .description(`the busiest ${what}, by their last samples`)
      .option('-n, --limit <number>', 'how many', positiveNumber, 30)
      .option('--every <seconds>', 'show them again and again, so many seconds apart', positiveNumber)
      .addHelpText(
        'after',
        `\nRates are read/written and received/sent.\n\nExample:\n  berth ${what.toLowerCase()} top --every 10`,
      )
      .action(async ({ limit, every }: TopOptions) => {
        const connection = connect();
        const read = () => callJson<{ items: T[] }>(connection, `/v1/top/${what.toLowerCase()}?limit=${limit}`);
        await showAgain(output(), every, async () => printRows(output(), (await withRetry(read)).items, columns));
      });
  };
  add<BusyHost>(hosts, 'hosts', hostColumns);
  add<BusyVm>(vms, 'VMs', vmColumns);
}

async function showAgain(output: Output, everyS: number | undefined, show: () => Promise<void>): Promise<void> {
  for (;;) {
    await show();
    if (everyS === undefined) return;
    await pause(everyS * 1000);
    print(output, '');
  }
}
