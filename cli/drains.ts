import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { CallError, type Connection, callJson, list, patiently } from './client.ts';
import { moment } from './moment.ts';
import { print, printOne, printRows, type Screen } from './show.ts';

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

const lookMs = 1_000;
function share(text: string): number {
  const value = Number(text);
  if (!(value > 0.5 && value < 1)) throw new InvalidArgumentError('expected a number between 0.5 and 1, such as 0.99');
  return value;
}

function line({ state, progress, etaAt, blockers, suspended, remaining }: Drain): string {
  const parts = [`${state}: ${progress.moved} moved, ${progress.moving} moving, ${progress.left} left`];
  if (etaAt !== null) parts.push(`empty at about ${etaAt}`);
  if (suspended.length > 0) parts.push(`suspended there: ${suspended.map(({ vm }) => vm).join(', ')}`);
  for (const { vm, why } of blockers) parts.push(`in the way: ${vm}: ${why}`);
  for (const { what, why } of remaining) parts.push(`remains: ${what}: ${why}`);
  return parts.join('; ');
}

/** Prints how it goes whenever that changes, until the drain is over; an incomplete one is a failure. */
async function follow(connected: Connection, screen: Screen, id: string): Promise<void> {
  let said = '';
  for (;;) {
    const drain = await patiently(() => callJson<Drain>(connected, `/v1/drains/${encodeURIComponent(id)}`));
    const now = screen.json ? JSON.stringify(drain) : line(drain);
    if (now !== said) print(screen, now);
    said = now;
    if (drain.state === 'incomplete') throw new CallError(`${drain.host} is not empty`, null);
    if (drain.finishedAt !== null) return;
    await pause(lookMs);
  }
}

/** `berth hosts drain` and `berth drains …`. */
export function addDrainCommands(program: Command, hosts: Command, connect: () => Connection, screen: () => Screen): void {
  hosts
    .command('drain')
    .description('empty a host by a moment: closed at once, its VMs moved as late as is safe')
    .argument('<host>')
    .requiredOption('--by <time>', 'when it is to be empty: RFC 3339, or 15m from now on', moment)
    .addOption(new Option('--strategy <strategy>', 'how many VMs at a time').choices(['auto', 'sequential', 'parallel']))
    .addOption(new Option('--mode <mode>', 'how they move').choices(['auto', 'live', 'cold']))
    .option('--move-disks', 'the disks of VMs leave it as well: it can be switched off afterwards')
    .addOption(
      new Option('--suspend-in-place <when>', 'suspend there, until it is opened again, what no other host can take').choices([
        'never',
        'ifStuck',
      ]),
    )
    .option('--confidence <share>', 'with which it is to be empty by then, e.g. 0.99', share)
    .option('--return-after <time>', 'when it takes work again and its VMs come back', moment)
    .option('--reason <text>', 'for those who read the events')
    .option('--follow', 'wait for its end')
    .addHelpText('after', '\nExample:\n  berth hosts drain host-b --by 30m --reason "new memory" --follow')
    .action(async (host: string, { by, follow: wait, ...rest }: DrainOptions) => {
      const headers = { 'idempotency-key': randomUUID() };
      const sent = { method: 'POST' as const, json: { deadline: by, ...rest }, headers };
      const drain = await patiently(() => callJson<Drain>(connect(), `/v1/hosts/${encodeURIComponent(host)}/drains`, sent));
      if (wait) await follow(connect(), screen(), drain.id);
      else printOne(screen(), drain);
    });

  const drains = program.command('drains').description('the emptying of hosts (operators)');
  drains
    .command('ls', { isDefault: true })
    .description('list drains, newest first')
    .option('--host <host>', 'of this host alone')
    .option('--state <state>', 'in this state alone')
    .action(async (query: { host?: string; state?: string }) => {
      printRows(screen(), await list<Drain>(connect(), '/v1/drains', { ...query }, 200), {
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
    .description('describe a drain: its plan, how it goes, what is in the way')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await callJson<Drain>(connect(), `/v1/drains/${encodeURIComponent(id)}`)));
  drains
    .command('follow')
    .description('print how a drain goes until it is over')
    .argument('<id>')
    .action((id: string) => follow(connect(), screen(), id));
  drains
    .command('deadline')
    .description('give a drain another deadline')
    .argument('<id>')
    .argument('<time>', 'RFC 3339, or 15m from now on', moment)
    .action((id: string, deadline: string) => change(id, '', 'PATCH', { deadline }));
  for (const [name, does] of Object.entries({ pause: 'begin no more migrations', resume: 'go on after a pause' }))
    drains
      .command(name)
      .description(does)
      .argument('<id>')
      .action((id: string) => change(id, `/${name}`, 'POST'));
  drains
    .command('cancel')
    .description('call a drain off: its host takes work again')
    .argument('<id>')
    .option('--go-back', 'bring back the VMs that have left')
    .action((id: string, { goBack }: { goBack?: boolean }) => change(id, '/cancel', 'POST', { goBack: goBack ?? false }));

  async function change(id: string, path: string, method: 'POST' | 'PATCH', json?: object): Promise<void> {
    const sent = { method, ...(json !== undefined && { json }) };
    printOne(screen(), await callJson<Drain>(connect(), `/v1/drains/${encodeURIComponent(id)}${path}`, sent));
  }
}
