import type { Migration as MigrationRow } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { MigrationState } from '../../model/migration.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';

export type MigrationRecord = MigrationRow;

/** @param owner of the VM; null: any owner. Throws not-found. */
export async function findMigration(tx: Transaction, owner: string | null, id: string): Promise<MigrationRecord> {
  const row = await tx.migration.findFirst({ where: { id, ...(owner !== null && { ownerId: owner }) } });
  if (!row) throw new BerthError('not-found', `There is no migration ${id}`);
  return row;
}

export async function readMigrations(
  ledger: Ledger,
  filter: { owner: string | null; state?: MigrationState | undefined; vm?: string | undefined },
  page: PageRequest,
): Promise<MigrationRecord[]> {
  const { owner, state, vm } = filter;
  return ledger.migration.findMany(pageQuery(page, { ownerId: owner ?? undefined, state, vmId: vm }));
}
