import { type Command, Option } from 'commander';
import { callJson, list, type Session } from '../client.ts';
import { booleans, positiveNumber, splitPair, yesNo } from '../options.ts';
import { printOne, printRows } from '../output.ts';

interface Resources {
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
}

interface Host {
  id: string;
  state: string;
  schedulable: boolean;
  conditions: string[];
  capacity: Resources;
  used: Resources;
  accelerator: string;
  fenced: { vm: string }[];
}

interface HostOptions {
  schedulable?: string;
  acceptsMigrations?: string;
  balance?: string;
  heartbeatS?: number | null;
  labels?: string;
}

const heartbeat = (text: string): number | null => (text === 'site' ? null : positiveNumber(text));

/** `none` for no labels. */
const labelsOf = (text: string): Record<string, string> =>
  text === 'none' ? {} : Object.fromEntries(text.split(',').map((pair) => splitPair(pair, '--labels')));

const hostPath = (id: string): string => `/v1/hosts/${encodeURIComponent(id)}`;

export function addHostCommands(program: Command, { connect, output }: Session): Command {
  const hosts = program.command('hosts').description('list hosts, and take them out of scheduling (operators)');
  const usedOf = (used: number, capacity: number) => `${used}/${capacity}`;

  hosts
    .command('ls', { isDefault: true })
    .description('list hosts')
    .addHelpText('after', '\nExample:\n  berth hosts ls --json')
    .action(async () => {
      printRows(output(), await list<Host>(connect(), '/v1/hosts', {}, 10_000), {
        id: (host) => host.id,
        state: (host) => host.state,
        schedulable: (host) => (host.schedulable ? 'yes' : 'no'),
        conditions: (host) => host.conditions.join(', ') || '-',
        vcpus: ({ used, capacity }) => usedOf(used.vcpus, capacity.vcpus),
        'memory MiB': ({ used, capacity }) => usedOf(used.memoryMiB, capacity.memoryMiB),
        'disk MiB': ({ used, capacity }) => usedOf(used.diskMiB, capacity.diskMiB),
        runs: (host) => host.accelerator,
        fenced: (host) => host.fenced.length,
      });
    });

  hosts
    .command('show')
    .description('describe a host')
    .argument('<host>', 'the host')
    .addHelpText('after', '\nExample:\n  berth hosts show host-b')
    .action(async (id: string) => printOne(output(), await callJson<Host>(connect(), hostPath(id))));

  hosts
    .command('set')
    .description('change what a host is used for')
    .argument('<host>', 'the host')
    .addOption(new Option('--schedulable <answer>', 'whether new work may be placed on it').choices(yesNo))
    .addOption(new Option('--accepts-migrations <answer>', 'whether VMs may be moved to it').choices(yesNo))
    .addOption(new Option('--balance <answer>', 'whether the balancer may move VMs to it, and away').choices(yesNo))
    .option('--labels <pairs>', 'all of its labels, as disk=ssd,rack=a1; none: it has none')
    .option('--heartbeat-s <seconds>', "seconds between the samples of its load; site: as the site's", heartbeat)
    .addHelpText(
      'after',
      '\nExamples:\n  berth hosts set host-b --schedulable no\n  berth hosts set host-b --labels disk=ssd,rack=a1',
    )
    .action(async (id: string, options: HostOptions) => {
      const { heartbeatS, labels, ...answers } = options;
      const json = {
        ...booleans(answers),
        ...(heartbeatS !== undefined && { heartbeatS }),
        ...(labels !== undefined && { labels: labelsOf(labels) }),
      };
      printOne(output(), await callJson<Host>(connect(), hostPath(id), { method: 'PATCH', json }));
    });
  return hosts;
}
