import { setTimeout as pause } from 'node:timers/promises';
import { type Command, Option } from 'commander';
import { type Connection, callJson, list, patiently } from './client.ts';
import { print, printOne, printRows, type Screen } from './show.ts';

interface Resources {
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
}

interface Host {
  id: string;
  state: string;
  schedulable: boolean;
  capacity: Resources;
  used: Resources;
  accelerator: string;
}

interface Event {
  id: string;
  time: string;
  type: string;
  subject: string;
  sequence: string;
}

const lookMs = 1_000;
const yesNo = ['yes', 'no'];

export function addHostCommands(program: Command, connect: () => Connection, screen: () => Screen): Command {
  const hosts = program.command('hosts').description('list hosts, and take them out of scheduling (operators)');
  const of = (used: number, capacity: number) => `${used}/${capacity}`;

  hosts
    .command('ls', { isDefault: true })
    .description('list hosts')
    .action(async () => {
      printRows(screen(), await list<Host>(connect(), '/v1/hosts', {}, 10_000), {
        id: (host) => host.id,
        state: (host) => host.state,
        schedulable: (host) => (host.schedulable ? 'yes' : 'no'),
        vcpus: ({ used, capacity }) => of(used.vcpus, capacity.vcpus),
        'memory MiB': ({ used, capacity }) => of(used.memoryMiB, capacity.memoryMiB),
        'disk MiB': ({ used, capacity }) => of(used.diskMiB, capacity.diskMiB),
        runs: (host) => host.accelerator,
      });
    });

  hosts
    .command('show')
    .description('describe a host')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await callJson<Host>(connect(), `/v1/hosts/${encodeURIComponent(id)}`)));

  hosts
    .command('set')
    .description('change what a host is used for')
    .argument('<id>')
    .addOption(new Option('--schedulable <answer>', 'whether new work may be placed on it').choices(yesNo))
    .addOption(new Option('--accepts-migrations <answer>', 'whether VMs may be moved to it').choices(yesNo))
    .addHelpText('after', '\nExample:\n  berth hosts set host-b --schedulable no')
    .action(async (id: string, options: { schedulable?: string; acceptsMigrations?: string }) => {
      const json = Object.fromEntries(Object.entries(options).map(([name, answer]) => [name, answer === 'yes']));
      printOne(screen(), await callJson<Host>(connect(), `/v1/hosts/${encodeURIComponent(id)}`, { method: 'PATCH', json }));
    });
  return hosts;
}

export function addEventCommand(program: Command, connect: () => Connection, screen: () => Screen): void {
  program
    .command('events')
    .description('print events, oldest first')
    .option('--after <cursor>', 'go on after this one', '0')
    .option('--type <type>', 'only of this type, e.g. berth.task.succeeded')
    .option('--follow', 'wait for more')
    .addHelpText(
      'after',
      '\nWith --json each event is a CloudEvent on a line of its own.\n\nExample:\n  berth events --follow --type berth.task.succeeded --json',
    )
    .action(async ({ after, type, follow }: { after: string; type?: string; follow?: boolean }) => {
      let cursor = after;
      for (;;) {
        const query = new URLSearchParams({ after: cursor, limit: '1000', ...(type !== undefined && { type }) });
        const page = await patiently(() => callJson<{ items: Event[]; next: string }>(connect(), `/v1/events?${query}`));
        for (const event of page.items) {
          print(
            screen(),
            screen().json ? JSON.stringify(event) : `${event.sequence}  ${event.time}  ${event.type}  ${event.subject}`,
          );
        }
        cursor = page.next;
        if (page.items.length > 0) continue;
        if (!follow) return;
        await pause(lookMs);
      }
    });
}
