import { secondsAgo } from './housekeeping.ts';
import type { LedgerDeps } from './transaction.ts';

const hourS = 3600;
/** For how long a repeated POST gets its first answer. */
const idempotencyS = 24 * hourS;
/** Longer than any upload lasts; the API removes its own sooner, with their bytes. */
const uploadS = 48 * hourS;

/** Removes expired idempotency keys and abandoned uploads; returns the number of rows. */
export async function sweepExpiredRows(deps: LedgerDeps): Promise<number> {
  const keys = await deps.ledger.idempotency.deleteMany({ where: { createdAt: { lt: secondsAgo(deps, idempotencyS) } } });
  const uploads = await deps.ledger.file.deleteMany({
    where: { state: 'uploading', createdAt: { lt: secondsAgo(deps, uploadS) } },
  });
  return keys.count + uploads.count;
}
