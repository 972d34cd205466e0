import { type Command, InvalidArgumentError, Option } from 'commander';
import { callJson, type Session } from '../client.ts';
import { given, unlessEmpty, wholeNumber } from '../options.ts';
import { print, printOne, printRows } from '../output.ts';
import { time } from '../times.ts';

/** The lease that a task, a VM or a quote asks for. */
export interface LeaseOptions {
  durationS?: number;
  reserveAt?: string;
  immediate?: boolean;
  deadline?: string;
  priority?: number;
  preemptible?: boolean;
}

interface PlannedLease {
  lease: string;
  task: string | null;
  kind: string;
  phase: string;
  nodes: number;
  hosts: string[];
  startAt: string;
  endAt: string;
  firm: boolean;
}

interface Schedule {
  leases: PlannedLease[];
  suspensions: { lease: string; at: string }[];
  unplanned: number;
}

interface QuoteOptions extends LeaseOptions {
  image: string;
  nodes?: number;
  vcpus?: number;
  memoryMib?: number;
  diskMib?: number;
}

function integer(text: string): number {
  if (!/^-?\d{1,4}$/.test(text)) throw new InvalidArgumentError('expected a whole number');
  return Number(text);
}

export function addLeaseOptions(command: Command): Command {
  return command
    .option('--duration-s <n>', 'how long the lease lasts', wholeNumber)
    .addOption(new Option('--reserve-at <time>', 'start then, or refuse: RFC 3339, or 15m, 2h, +900 from now on').argParser(time))
    .option('--immediate', 'start as soon as its VMs can be there, or refuse')
    .addOption(new Option('--deadline <time>', 'best effort that surely ends by then, or refuse').argParser(time))
    .addOption(new Option('--priority <n>', 'higher goes first in the queue; above 0 for operators').argParser(integer))
    .option('--no-preemptible', 'best effort that is never suspended once it runs');
}

/** As the API takes it; only what was given. */
export function leaseOf(options: LeaseOptions): Record<string, unknown> | undefined {
  const { reserveAt, immediate, durationS, deadline, priority, preemptible } = options;
  const kind = reserveAt !== undefined ? 'reservation' : immediate === true ? 'immediate' : undefined;
  const fields = { kind, startAt: reserveAt, durationS, deadline, priority, ...(preemptible === false && { preemptible }) };
  return unlessEmpty(given(fields));
}

export function addLeaseCommands(program: Command, { connect, output }: Session): void {
  program
    .command('schedule')
    .description('the plan: when leases start and end, and where')
    .addOption(new Option('--from <time>', 'leases that end later; default now').argParser(time))
    .addOption(new Option('--to <time>', 'leases that start before').argParser(time))
    .addHelpText('after', '\nExample:\n  berth schedule --to 1h')
    .action(async (query: Record<string, string>) => {
      const shown = output();
      const schedule = await callJson<Schedule>(connect(), `/v1/schedule?${new URLSearchParams(query)}`);
      if (shown.json) return print(shown, JSON.stringify(schedule, null, 2));
      printRows(shown, schedule.leases, {
        task: (lease) => lease.task ?? lease.lease,
        kind: (lease) => lease.kind,
        phase: (lease) => lease.phase,
        start: (lease) => lease.startAt,
        end: (lease) => lease.endAt,
        firm: (lease) => (lease.firm ? 'yes' : 'no'),
        hosts: (lease) => lease.hosts.join(','),
      });
      if (schedule.unplanned > 0) print(shown, `${schedule.unplanned} more wait; no place is in sight for them`);
    });

  addLeaseOptions(
    program
      .command('quote')
      .description('when would this start and end, and what would it cost? Nothing is booked')
      .requiredOption('--image <name>', 'what its VMs are made from')
      .option('--vcpus <n>', 'processors of each VM', wholeNumber)
      .option('--memory-mib <n>', 'memory of each VM', wholeNumber)
      .option('--disk-mib <n>', 'size of the data disk', wholeNumber)
      .option('--nodes <n>', 'how many VMs', wholeNumber),
  )
    .addHelpText('after', '\nExample:\n  berth quote --image debian-12 --nodes 3 --reserve-at +600 --duration-s 1800')
    .action(async (options: QuoteOptions) => {
      const { image, nodes, vcpus, memoryMib, diskMib } = options;
      const resources = unlessEmpty(given({ vcpus, memoryMiB: memoryMib, diskMiB: diskMib }));
      const json = given({ image, nodes, resources, lease: leaseOf(options) });
      printOne(output(), await callJson<object>(connect(), '/v1/quotes', { method: 'POST', json }));
    });
}
