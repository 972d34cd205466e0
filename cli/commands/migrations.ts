import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { type Connection, callJson, list, poll, type Session, withRetry } from '../client.ts';
import { resolveMigration, resolveVm } from '../names.ts';
import { given, wholeNumber } from '../options.ts';
import { type Output, print, printOne, printRows, sizeOf } from '../output.ts';

interface Migration {
  id: string;
  vm: string;
  state: string;
  mode: string;
  from: string;
  to: string | null;
  downtimeMs: number | null;
  bytes: number;
  guest: string | null;
  progress: { processedBytes: number; remainingBytes: number; etaS: number | null } | null;
  error: { code: string; message: string } | null;
}

interface MigrateOptions {
  to?: string;
  cold?: boolean;
  disksOnly?: boolean;
  orCold?: boolean;
  within?: number;
  moveDisk?: boolean;
  reason?: string;
  wait?: boolean;
}

const isFinished = ({ state }: Migration): boolean => state === 'succeeded' || state === 'rolledBack';
const migrationPath = (id: string): string => `/v1/migrations/${encodeURIComponent(id)}`;

const waitFor = (connection: Connection, id: string): Promise<Migration> =>
  poll(() => callJson<Migration>(connection, migrationPath(id)), isFinished);

function endOf({ vm, state, mode, from, to, bytes, downtimeMs, error }: Migration): string {
  const why = error === null ? '' : `${error.message} (${error.code})`;
  if (mode === 'disks')
    return state === 'succeeded'
      ? `the disks of ${vm} are on ${to}: ${sizeOf(bytes)}`
      : `the disks of ${vm} stay on ${from}: ${why}`;
  if (state !== 'succeeded') return `${vm} stays on ${from}: ${why}`;
  return `${vm} runs on ${to}: ${downtimeMs ?? '?'} ms of standstill, ${sizeOf(bytes)} of memory${why && `; ${why}`}`;
}

function printEnd(output: Output, migration: Migration): void {
  if (output.json) printOne(output, migration);
  else print(output, endOf(migration));
}

/** `berth vms migrate` and `berth migrations …`. */
export function addMigrationCommands(program: Command, vms: Command, { connect, output }: Session): void {
  vms
    .command('migrate')
    .description('move a VM to another host while it runs')
    .argument('<vm>', 'its id or name')
    .option('--to <host>', 'where to; without it, the site chooses')
    .option('--cold', 'suspend it for the move')
    .option('--or-cold', 'suspend it for the move if its guest writes faster than its memory can be copied')
    .option('--within <seconds>', 'for how long its memory may be copied before that is given up', wholeNumber)
    .option('--move-disk', 'let its disks follow it')
    .option('--disks-only', 'let its disks follow it to where it runs already')
    .option('--reason <text>', 'for those who read the event')
    .option('--wait', 'wait for the end; exit code 1 when it stays where it was')
    .addHelpText('after', '\nExample:\n  berth vms migrate web --to host-b --wait')
    .action(async (which: string, { to, cold, disksOnly, orCold, within, moveDisk, reason, wait }: MigrateOptions) => {
      const [connection, shown] = [connect(), output()];
      const vm = await resolveVm(connection, which);
      const json = given({
        to,
        mode: disksOnly ? 'disks' : cold ? 'cold' : undefined,
        ifNotConverging: orCold ? 'cold' : undefined,
        convergeWithinS: within,
        moveDisk,
        reason,
      });
      const headers = { 'idempotency-key': randomUUID() };
      const accepted = await withRetry(() =>
        callJson<Migration>(connection, `/v1/vms/${encodeURIComponent(vm)}/migrations`, { method: 'POST', json, headers }),
      );
      if (!wait) return shown.json ? printOne(shown, accepted) : print(shown, accepted.id);
      const finished = await waitFor(connection, accepted.id);
      printEnd(shown, finished);
      process.exitCode = finished.state === 'succeeded' ? 0 : 1;
    });

  const migrations = program.command('migrations').description('follow and abort migrations');

  migrations
    .command('ls', { isDefault: true })
    .description('list migrations, newest first')
    .option('--vm <vm>', 'only those of this VM, by its id or name')
    .option('--state <state>', 'only those in this state')
    .option('--limit <n>', 'how many', wholeNumber, 50)
    .addHelpText('after', '\nExample:\n  berth migrations ls --vm web')
    .action(async ({ vm, state, limit }: { vm?: string; state?: string; limit: number }) => {
      const query = {
        ...(vm !== undefined && { vm: await resolveVm(connect(), vm) }),
        ...(state !== undefined && { state }),
      };
      printRows(output(), await list<Migration>(connect(), '/v1/migrations', query, limit), {
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
    .argument('<migration>', 'its id, or the VM that moves')
    .addHelpText('after', '\nExample:\n  berth migrations show web')
    .action(async (which: string) => {
      const id = await resolveMigration(connect(), which);
      printOne(output(), await callJson<Migration>(connect(), migrationPath(id)));
    });

  migrations
    .command('abort')
    .description('let the VM stay where it is, unless it was handed over already')
    .argument('<migration>', 'its id, or the VM that moves')
    .addHelpText('after', '\nExample:\n  berth migrations abort web')
    .action(async (which: string) => {
      const id = await resolveMigration(connect(), which);
      printOne(output(), await callJson<Migration>(connect(), migrationPath(id), { method: 'DELETE' }));
    });
}
