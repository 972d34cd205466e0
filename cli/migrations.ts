import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import { type Connection, callJson, list, patiently } from './client.ts';
import { whole } from './options.ts';
import { print, printOne, printRows, type Screen, sizeOf } from './show.ts';

interface Migration {
  id: string;
  vm: string;
  state: string;
  mode: string;
  from: string;
  to: string | null;
  waiting: string | null;
  downtimeMs: number | null;
  bytes: number;
  guest: string | null;
  progress: { processedBytes: number; remainingBytes: number; etaS: number | null } | null;
  error: { code: string; message: string } | null;
}

interface MoveOptions {
  to?: string;
  cold?: boolean;
  disksOnly?: boolean;
  orCold?: boolean;
  within?: number;
  moveDisk?: boolean;
  reason?: string;
  wait?: boolean;
}

const lookMs = 500;
const isOver = ({ state }: Migration): boolean => state === 'succeeded' || state === 'rolledBack';
const path = (id: string): string => `/v1/migrations/${encodeURIComponent(id)}`;

/** Returns when it is over; the API being away for a while doesn't matter. */
async function waitFor(connected: Connection, id: string): Promise<Migration> {
  for (;;) {
    const migration = await patiently(() => callJson<Migration>(connected, path(id)));
    if (isOver(migration)) return migration;
    await pause(lookMs);
  }
}

function printEnd(screen: Screen, migration: Migration): void {
  if (screen.json) printOne(screen, migration);
  else if (migration.mode === 'disks')
    print(
      screen,
      migration.state === 'succeeded'
        ? `the disks of ${migration.vm} are on ${migration.to}: ${sizeOf(migration.bytes)}`
        : `the disks of ${migration.vm} stay on ${migration.from}: ${migration.error?.message} (${migration.error?.code})`,
    );
  else if (migration.state === 'succeeded')
    print(
      screen,
      `${migration.vm} runs on ${migration.to}: ${migration.downtimeMs ?? '?'} ms of standstill, ${sizeOf(migration.bytes)} of memory${migration.error ? `; ${migration.error.message} (${migration.error.code})` : ''}`,
    );
  else print(screen, `${migration.vm} stays on ${migration.from}: ${migration.error?.message} (${migration.error?.code})`);
}

export function addMigrationCommands(program: Command, connect: () => Connection, screen: () => Screen): void {
  const vms = program.commands.find((command) => command.name() === 'vms') ?? program.command('vms').description('work with VMs');

  vms
    .command('migrate')
    .description('move a VM to another host while it runs')
    .argument('<vm>')
    .option('--to <host>', 'where to; without it, the site chooses')
    .option('--cold', 'suspend it for the journey')
    .option('--or-cold', 'suspend it for the journey, should its guest write faster than its memory is carried over')
    .option('--within <seconds>', 'for how long its memory may be carried over before that is given up', whole)
    .option('--move-disk', 'let its disks follow it')
    .option('--disks-only', 'let its disks follow it to where it runs already')
    .option('--reason <text>', 'for those who read the event')
    .option('--wait', 'wait for the end; exit code 1 when it stays where it was')
    .addHelpText('after', '\nExample:\n  berth vms migrate vm_01… --to host-b --wait')
    .action(async (vm: string, { to, cold, disksOnly, orCold, within, moveDisk, reason, wait }: MoveOptions) => {
      const [connected, shown] = [connect(), screen()];
      const json = Object.fromEntries(
        Object.entries({
          to,
          mode: disksOnly ? 'disks' : cold ? 'cold' : undefined,
          ifNotConverging: orCold ? 'cold' : undefined,
          convergeWithinS: within,
          moveDisk,
          reason,
        }).filter(([, value]) => value !== undefined),
      );
      const headers = { 'idempotency-key': randomUUID() };
      const asked = await patiently(() =>
        callJson<Migration>(connected, `/v1/vms/${encodeURIComponent(vm)}/migrations`, { method: 'POST', json, headers }),
      );
      if (!wait) return shown.json ? printOne(shown, asked) : print(shown, asked.id);
      const over = await waitFor(connected, asked.id);
      printEnd(shown, over);
      process.exitCode = over.state === 'succeeded' ? 0 : 1;
    });

  const migrations = program.command('migrations').description('follow and abort migrations');

  migrations
    .command('ls', { isDefault: true })
    .description('list migrations, newest first')
    .option('--vm <vm>', 'only those of this VM')
    .option('--state <state>', 'only those in this state')
    .option('--limit <n>', 'how many', whole, 50)
    .action(async ({ vm, state, limit }: { vm?: string; state?: string; limit: number }) => {
      const query = { ...(vm !== undefined && { vm }), ...(state !== undefined && { state }) };
      printRows(screen(), await list<Migration>(connect(), '/v1/migrations', query, limit), {
        id: (migration) => migration.id,
        vm: (migration) => migration.vm,
        state: (migration) => migration.state,
        from: (migration) => migration.from,
        to: (migration) => migration.to,
        'downtime ms': (migration) => migration.downtimeMs,
        memory: (migration) => sizeOf(migration.bytes),
        guest: (migration) => migration.guest,
        'eta s': (migration) => migration.progress?.etaS,
      });
    });

  migrations
    .command('show')
    .description('describe a migration')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await callJson<Migration>(connect(), path(id))));

  migrations
    .command('abort')
    .description('let the VM stay where it is, unless it was handed over already')
    .argument('<id>')
    .action(async (id: string) => printOne(screen(), await callJson<Migration>(connect(), path(id), { method: 'DELETE' })));
}
