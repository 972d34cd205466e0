import { type Command, Option } from 'commander';
import { callJson, list, postOnce, type Session } from '../../client.ts';
import { positiveNumber } from '../../options.ts';
import { printOne, printRows } from '../../output.ts';

interface Balancer {
  mode: string;
  heartbeatS: number;
}

interface Explained {
  host: string;
  seen: { kind: string | null; use: number; steal: number; stressedS: number };
  outcome: string;
  why: string | null;
  chosen: { vm: string; to: string; netCpuS: number }[];
}

interface Decision extends Explained {
  id: string;
  at: string;
  mode: string;
  state: string;
  moves: { vm: string; to: string; predictedCpus: number; achievedCpus: number | null }[];
}

const percent = (value: number): string => `${(100 * value).toFixed(0)} %`;
const explained = {
  host: ({ host }: Explained) => host,
  stress: ({ seen }: Explained) => seen.kind ?? '-',
  use: ({ seen }: Explained) => percent(seen.use),
  steal: ({ seen }: Explained) => percent(seen.steal),
  moves: ({ chosen }: Explained) => chosen.map(({ vm, to }) => `${vm} to ${to}`).join(', ') || '-',
  why: ({ why }: Explained) => why ?? '-',
};

interface Packed {
  host: string;
  vms: number;
  gainCpuS: number;
  costCpuS: number;
  moves: { vm: string; to: string }[];
  why: string | null;
  keptBy: { vm: string } | null;
}

interface Plan {
  decisions: Explained[];
  emptied: Packed[];
}

const packed = {
  host: ({ host }: Packed) => host,
  vms: ({ vms }: Packed) => vms,
  'worth CPU s': ({ gainCpuS }: Packed) => Math.round(gainCpuS),
  'costs CPU s': ({ costCpuS }: Packed) => Math.round(costCpuS),
  moves: ({ moves }: Packed) => moves.map(({ vm, to }) => `${vm} to ${to}`).join(', ') || '-',
  why: ({ why, keptBy }: Packed) => (why === null ? 'it can be emptied' : keptBy === null ? why : `${why}: ${keptBy.vm}`),
};

const path = '/v1/balancer';

export function addBalancerCommands(program: Command, { connect, output }: Session): void {
  const balancer = program.command('balancer').description('what the site does about its load (operators)');

  balancer
    .command('show', { isDefault: true })
    .description('show the settings')
    .addHelpText('after', '\nExample:\n  berth balancer show')
    .action(async () => printOne(output(), await callJson<Balancer>(connect(), path)));

  balancer
    .command('set')
    .description('change the settings; hosts follow within ten seconds')
    .addOption(new Option('--mode <mode>', 'advise: decide and show; auto: move VMs').choices(['off', 'advise', 'auto']))
    .option('--heartbeat-s <seconds>', "seconds between the samples of a host's load", positiveNumber)
    .addHelpText('after', '\nExample:\n  berth balancer set --mode advise')
    .action(async (json: Partial<Balancer>) => {
      printOne(output(), await callJson<Balancer>(connect(), path, { method: 'PATCH', json }));
    });

  balancer
    .command('decisions')
    .description('what was decided about hosts that asked for help, newest first; one of them with all that it was made of')
    .argument('[decision]', 'the decision')
    .option('--host <host>', 'of this host alone')
    .option('-n, --limit <number>', 'how many', positiveNumber, 20)
    .addHelpText('after', '\nExample:\n  berth balancer decisions --host host-b')
    .action(async (id: string | undefined, { host, limit }: { host?: string; limit: number }) => {
      if (id !== undefined) {
        printOne(output(), await callJson<Decision>(connect(), `${path}/decisions/${encodeURIComponent(id)}`));
        return;
      }
      const rows = await list<Decision>(connect(), `${path}/decisions`, host === undefined ? {} : { host }, limit);
      printRows(output(), rows, { id: ({ id }) => id, at: ({ at }) => at, state: ({ state }) => state, ...explained });
    });

  balancer
    .command('plan')
    .description('what would be decided of all hosts that are overloaded now, or which could be emptied; nothing moves')
    .addOption(new Option('--aim <aim>', 'pack: which hosts could be emptied and switched off').choices(['spread', 'pack']))
    .option('--stress-s <seconds>', 'how long the overload is taken to last', positiveNumber)
    .addHelpText('after', '\nExample:\n  berth balancer plan --stress-s 300')
    .action(async (json: { stressS?: number; aim?: string }) => {
      const { decisions, emptied } = await postOnce<Plan>(connect(), `${path}/plan`, json);
      if (json.aim === 'pack') printRows(output(), emptied, packed);
      else printRows(output(), decisions, explained);
    });
}
