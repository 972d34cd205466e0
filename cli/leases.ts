import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Connection, callJson } from './client.ts';
import { moment } from './moment.ts';
import { whole } from './options.ts';
import { print, printOne, printRows, type Screen } from './show.ts';

/** What a lease may be asked to be, as options of whatever takes one. */
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

function integer(text: string): number {
  if (!/^-?\d{1,4}$/.test(text)) throw new InvalidArgumentError('expected a whole number');
  return Number(text);
}

export function leaseOptions(command: Command): Command {
  return command
    .option('--duration-s <n>', 'how long the lease lasts', whole)
    .addOption(new Option('--reserve-at <time>', 'start then, or refuse: RFC 3339, or +seconds from now').argParser(moment))
    .option('--immediate', 'start as soon as its VMs can be there, or refuse')
    .addOption(new Option('--deadline <time>', 'best effort that surely ends by then, or refuse').argParser(moment))
    .addOption(new Option('--priority <n>', 'higher goes first in the queue').argParser(integer))
    .option('--no-preemptible', 'best effort that is never suspended once it runs');
}

/** As the API takes it; only what was given. */
export function leaseOf(options: LeaseOptions): Record<string, unknown> | undefined {
  const { reserveAt, immediate, durationS, deadline, priority, preemptible } = options;
  const kind = reserveAt !== undefined ? 'reservation' : immediate === true ? 'immediate' : undefined;
  const fields = { kind, startAt: reserveAt, durationS, deadline, priority, ...(preemptible === false && { preemptible }) };
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return given.length === 0 ? undefined : Object.fromEntries(given);
}

export function addLeaseCommands(program: Command, connect: () => Connection, screen: () => Screen): void {
  program
    .command('schedule')
    .description('the plan: when leases start and end, and where')
    .addOption(new Option('--from <time>', 'leases that end later; default now').argParser(moment))
    .addOption(new Option('--to <time>', 'leases that start before').argParser(moment))
    .addHelpText('after', '\nExample:\n  berth schedule --to +3600')
    .action(async (query: Record<string, string>) => {
      const shown = screen();
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

  leaseOptions(
    program
      .command('quote')
      .description('when would this start and end? Nothing is booked')
      .requiredOption('--image <name>')
      .option('--vcpus <n>', '', whole)
      .option('--memory-mib <n>', '', whole)
      .option('--disk-mib <n>', 'size of the data disk', whole)
      .option('--nodes <n>', 'how many VMs', whole),
  )
    .addHelpText('after', '\nExample:\n  berth quote --image debian-12 --nodes 3 --reserve-at +600 --duration-s 1800')
    .action(async (options: LeaseOptions & { image: string; nodes?: number; [size: string]: unknown }) => {
      const sizes = { vcpus: options.vcpus, memoryMiB: options.memoryMib, diskMiB: options.diskMib };
      const resources = Object.fromEntries(Object.entries(sizes).filter(([, value]) => value !== undefined));
      const lease = leaseOf(options);
      const json = {
        image: options.image,
        ...(options.nodes !== undefined && { nodes: options.nodes }),
        ...(Object.keys(resources).length > 0 && { resources }),
        ...(lease && { lease }),
      };
      printOne(screen(), await callJson<object>(connect(), '/v1/quotes', { method: 'POST', json }));
    });
}
