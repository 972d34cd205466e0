import { randomUUID } from 'node:crypto';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { CommandError, type Connection, callJson, list, poll, type RequestOptions, type Session, withRetry } from '../client.ts';
import { resolveDrain } from '../names.ts';
import { type Output, print, printOne, printRows } from '../output.ts';
import { time } from '../times.ts';

interface Drain {
  id: string;
  host: string;
  state: string;
  deadline: string;
  etaAt: string | null;
  progress: { moved: number; moving: number; left: number };
  blockers: { vm: string; why: string }[];
  remaining: { what: string; why: string }[];
  suspended: { vm: string }[];
  finishedAt: string | null;
}

interface DrainOptions {
  by: string;
  strategy?: string;
  mode?: string;
  moveDisks?: boolean;
  suspendInPlace?: string;
  confidence?: number;
  returnAfter?: string;
  reason?: string;
  follow?: boolean;
}

const pollMs = 1_000;

const drainPath = (id: string, rest = ''): string => `/v1/drains/${encodeURIComponent(id)}${rest}`;

/** Argument parser of a probability. */
function probability(text: string): number {
  const value = Number(text);
  if (!(value > 0.5 && value < 1)) throw new InvalidArgumentError('expected a number between 0.5 and 1, such as 0.99');
  return value;
}

function progressLine({ state, progress, etaAt, blockers, suspended, remaining }: Drain): string {
  const parts = [`${state}: ${progress.moved} moved, ${progress.moving} moving, ${progress.left} left`];
  if (etaAt !== null) parts.push(`empty at about ${etaAt}`);
  if (suspended.length > 0) parts.push(`suspended there: ${suspended.map(({ vm }) => vm).join(', ')}`);
  for (const { vm, why } of blockers) parts.push(`in the way: ${vm}: ${why}`);
  for (const { what, why } of remaining) parts.push(`remains: ${what}: ${why}`);
  return parts.join('; ');
}

/** Prints the progress whenever it changes, until the drain is finished; an incomplete drain is a failure. */
async function follow(connection: Connection, output: Output, id: string): Promise<void> {
  let printed = '';
  const read = () => callJson<Drain>(connection, drainPath(id));
  const drain = await poll(
    read,
    (drain) => {
      const line = output.json ? JSON.stringify(drain) : progressLine(drain);
      if (line !== printed) print(output, line);
      printed = line;
      return drain.state === 'incomplete' || drain.finishedAt !== null;
    },
    pollMs,
  );
  if (drain.state === 'incomplete') throw new CommandError(`${drain.host} is not empty`);
}

/** `berth hosts drain` and `berth drains …`. */
export function addDrainCommands(program: Command, hosts: Command, { connect, output }: Session): void {
  hosts
    .command('drain')
    .description('empty a host by a moment: closed at once, its VMs moved as late as is safe')
    .argument('<host>', 'the host')
    .requiredOption('--by <time>', 'when it is to be empty: RFC 3339, or 15m, 2h, +900 from now on', time)
    .addOption(new Option('--strategy <strategy>', 'how many VMs at a time').choices(['auto', 'sequential', 'parallel']))
    .addOption(new Option('--mode <mode>', 'how they move').choices(['auto', 'live', 'cold']))
    .option('--move-disks', 'the disks of VMs leave it as well: it can be switched off afterwards')
    .addOption(
      new Option('--suspend-in-place <when>', 'suspend there, until it is opened again, what no other host can take').choices([
        'never',
        'ifStuck',
      ]),
    )
    .option('--confidence <share>', 'with which it is to be empty by then, e.g. 0.99', probability)
    .option('--return-after <time>', 'when it takes work again and its VMs come back', time)
    .option('--reason <text>', 'for those who read the events')
    .option('--follow', 'wait for its end')
    .addHelpText('after', '\nExample:\n  berth hosts drain host-b --by 30m --reason "new memory" --follow')
    .action(async (host: string, { by, follow: wait, ...rest }: DrainOptions) => {
      const headers = { 'idempotency-key': randomUUID() };
      const request: RequestOptions = { method: 'POST', json: { deadline: by, ...rest }, headers };
      const drain = await withRetry(() => callJson<Drain>(connect(), `/v1/hosts/${encodeURIComponent(host)}/drains`, request));
      if (wait) await follow(connect(), output(), drain.id);
      else printOne(output(), drain);
    });

  const drains = program.command('drains').description('the emptying of hosts (operators)');
  const drainArgument = ['<drain>', 'its id, or the host'] as const;
  drains
    .command('ls', { isDefault: true })
    .description('list drains, newest first')
    .option('--host <host>', 'only those of this host')
    .option('--state <state>', 'only those in this state')
    .addHelpText('after', '\nExample:\n  berth drains ls --host host-b')
    .action(async (query: { host?: string; state?: string }) => {
      printRows(output(), await list<Drain>(connect(), '/v1/drains', { ...query }, 200), {
        id: ({ id }) => id,
        host: ({ host }) => host,
        state: ({ state }) => state,
        deadline: ({ deadline }) => deadline,
        eta: ({ etaAt }) => etaAt,
        moved: ({ progress }) => progress.moved,
        left: ({ progress }) => progress.left + progress.moving,
      });
    });
  drains
    .command('show')
    .description('describe a drain: its plan, its progress, what is in the way')
    .argument(...drainArgument)
    .addHelpText('after', '\nExample:\n  berth drains show host-b')
    .action(async (which: string) => {
      const id = await resolveDrain(connect(), which);
      printOne(output(), await callJson<Drain>(connect(), drainPath(id)));
    });
  drains
    .command('follow')
    .description('print the progress of a drain until it is finished')
    .argument(...drainArgument)
    .addHelpText('after', '\nExample:\n  berth drains follow host-b')
    .action(async (which: string) => follow(connect(), output(), await resolveDrain(connect(), which)));
  drains
    .command('deadline')
    .description('give a drain another deadline')
    .argument(...drainArgument)
    .argument('<time>', 'RFC 3339, or 15m, 2h, +900 from now on', time)
    .addHelpText('after', '\nExample:\n  berth drains deadline host-b 1h')
    .action((which: string, deadline: string) => change(which, '', { method: 'PATCH', json: { deadline } }));
  for (const [name, description] of Object.entries({ pause: 'begin no more migrations', resume: 'go on after a pause' }))
    drains
      .command(name)
      .description(description)
      .argument(...drainArgument)
      .addHelpText('after', `\nExample:\n  berth drains ${name} host-b`)
      .action((which: string) => change(which, `/${name}`, { method: 'POST' }));
  drains
    .command('cancel')
    .description('cancel a drain: its host takes work again')
    .argument(...drainArgument)
    .option('--go-back', 'bring back the VMs that have left')
    .addHelpText('after', '\nExample:\n  berth drains cancel host-b --go-back')
    .action((which: string, { goBack }: { goBack?: boolean }) =>
      change(which, '/cancel', { method: 'POST', json: { goBack: goBack ?? false } }),
    );

  async function change(which: string, rest: string, request: RequestOptions): Promise<void> {
    const id = await resolveDrain(connect(), which);
    printOne(output(), await callJson<Drain>(connect(), drainPath(id, rest), request));
  }
}
