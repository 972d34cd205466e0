import type { Drain as DrainRow, Migration as MigrationRow } from '../../generated/prisma/client.ts';
import type { DrainId, DrainOutline, DrainState } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';
import { StoredPlan } from './outline.ts';
import { type InPlaceSuspension, readSuspendedInPlace } from './suspended-in-place.ts';

/** A drain, the migrations that it has requested, oldest first, and the VMs that it has suspended in place. */
export interface DrainRecord extends Omit<DrainRow, 'plan'> {
  plan: DrainOutline | null;
  migrations: Pick<MigrationRow, 'id' | 'vmId' | 'fromId' | 'toId' | 'state'>[];
  suspendedInPlace: InPlaceSuspension[];
}

async function withMigrations(tx: Transaction, rows: DrainRow[]): Promise<DrainRecord[]> {
  const ids = rows.map(({ id }) => id);
  const migrations = await tx.migration.findMany({
    where: { requestedBy: { in: ids } },
    select: { id: true, vmId: true, fromId: true, toId: true, state: true, requestedBy: true },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
  });
  const suspended = await readSuspendedInPlace(tx, ids);
  return rows.map((row) => ({
    ...row,
    plan: StoredPlan.nullable().parse(row.plan),
    migrations: migrations.filter(({ requestedBy }) => requestedBy === row.id),
    suspendedInPlace: suspended.filter(({ drain }) => drain === row.id),
  }));
}

/** Throws not-found. */
export async function findDrain(tx: Transaction, id: string): Promise<DrainRecord> {
  const row = await tx.drain.findUnique({ where: { id } });
  if (row === null) throw new BerthError('not-found', `There is no drain ${id}`);
  const [record] = await withMigrations(tx, [row]);
  return record!;
}

export async function readDrains(
  ledger: Ledger,
  filter: { state?: DrainState | undefined; host?: string | undefined },
  page: PageRequest,
): Promise<DrainRecord[]> {
  const rows = await ledger.drain.findMany(pageQuery(page, { state: filter.state, hostId: filter.host }));
  return withMigrations(ledger, rows);
}

/** What a drain's workflow id is made of. */
export async function findDrainName(ledger: Ledger, id: string): Promise<{ id: DrainId; host: HostId; number: number }> {
  const { hostId, number } = await ledger.drain.findUniqueOrThrow({ where: { id }, select: { hostId: true, number: true } });
  return { id: id as DrainId, host: hostId as HostId, number };
}
