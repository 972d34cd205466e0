import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { findVm } from '../vms/read-vms.ts';
import { acceptMigration, type MigrationRequest } from './accept-migration.ts';
import { findMigration, type MigrationRecord } from './read-migrations.ts';

/**
 * Accepts a migration once for each idempotency key. Throws not-found for a VM of another owner, and what
 * acceptMigration throws.
 * @param migration `owner`: whose VM it may be; null: any owner's
 */
export async function acceptMigrationOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  migration: MigrationRequest & { owner: string | null },
  answer: (migration: MigrationRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    await findVm(tx, migration.owner, migration.vm);
    return answer(await findMigration(tx, null, await acceptMigration(tx, migration)));
  });
}

/** Notes that a migration's abort was requested; a repeat keeps the first time. */
export async function changeMigrationAbortRequested(ledger: Ledger, id: string, nowMs: number): Promise<void> {
  await ledger.migration.updateMany({ where: { id, abortRequestedAt: null }, data: { abortRequestedAt: new Date(nowMs) } });
}
