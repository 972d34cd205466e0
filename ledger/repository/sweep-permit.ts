import { z } from 'zod';
import type { Prisma } from '../../generated/prisma/client.ts';
import type { RepositoryMark, SweepFindings, SweepHold } from '../../model/repository/sweep.ts';
import type { Ledger } from '../client.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';

/** Whether this process may sweep now, and if not, why. */
export type SweepPermit =
  | { hold: SweepHold }
  | {
      hold: null;
      /** To be written to the repository before anything is removed. */
      mark: RepositoryMark;
      ledgerHasFiles: boolean;
      /** How many things without a row an operator has accepted, whatever their share. */
      acceptedOrphans: number;
    };

const SiteRow = z.object({
  id: z.string(),
  mark: z.bigint(),
  database: z.string().nullable(),
  hold: z.string().nullable(),
  acceptedSite: z.string().nullable(),
  acceptedMark: z.bigint(),
  acceptedOrphans: z.number(),
  /** The database that answers: its cluster, its timeline, which grows with each recovery, and its oid. */
  current: z.string(),
  ledgerHasFiles: z.boolean(),
});
type SiteRow = z.output<typeof SiteRow>;

async function lockSite(tx: Transaction): Promise<SiteRow> {
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT s.id, s.mark, s.database, s.hold, s."acceptedSite", s."acceptedMark", s."acceptedOrphans",
      (SELECT system_identifier::text FROM pg_control_system()) || ':' ||
        (SELECT timeline_id::text FROM pg_control_checkpoint()) || ':' ||
        (SELECT oid::text FROM pg_database WHERE datname = current_database()) AS current,
      EXISTS (SELECT FROM "File" WHERE state = 'ready') AS "ledgerHasFiles"
    FROM "Site" s FOR UPDATE OF s`;
  return SiteRow.parse(rows[0]);
}

function isAccepted(site: SiteRow, mark: RepositoryMark): boolean {
  return mark.site === site.acceptedSite && BigInt(mark.mark) <= site.acceptedMark;
}

/** What the two say of each other, before anything in the repository is looked at. */
function decideHold(site: SiteRow, mark: RepositoryMark | null): SweepHold | null {
  if (mark !== null && !isAccepted(site, mark)) {
    if (mark.site !== site.id) return 'other-site';
    if (BigInt(mark.mark) > site.mark) return 'ledger-older';
  }
  if (site.database !== null && site.database !== site.current) return 'ledger-restored';
  return null;
}

async function writeHold(tx: Transaction, hold: SweepHold, found: SweepFindings, nowMs: number): Promise<void> {
  await tx.site.update({
    where: { row: 1 },
    data: { hold, heldAt: new Date(nowMs), found: found as unknown as Prisma.InputJsonObject },
  });
}

/**
 * Permits one sweep, or holds all of them until an operator decides. A permitted one makes the ledger's mark grow first, so
 * that the repository's copy is never above it, unless this ledger is older than the repository.
 */
export async function permitSweep(ledger: Ledger, mark: RepositoryMark | null, nowMs: number): Promise<SweepPermit> {
  const work = async (tx: Transaction): Promise<SweepPermit> => {
    const site = await lockSite(tx);
    if (site.hold !== null) return { hold: site.hold as SweepHold };
    const hold = decideHold(site, mark);
    if (hold !== null) {
      await writeHold(tx, hold, { mark }, nowMs);
      return { hold };
    }
    const { id, ledgerHasFiles, acceptedOrphans, current } = site;
    const grown = await tx.site.update({ where: { row: 1 }, data: { mark: { increment: 1 }, database: current } });
    return { hold: null, mark: { site: id, mark: Number(grown.mark) }, ledgerHasFiles, acceptedOrphans };
  };
  return inTransaction(ledger, work, requestLimits);
}

/** Holds all sweeps after this one has looked at the repository, unless another process has held them for its own reason. */
export async function holdSweeps(ledger: Ledger, hold: SweepHold, found: SweepFindings, nowMs: number): Promise<void> {
  await inTransaction(ledger, async (tx) => {
    if ((await lockSite(tx)).hold === null) await writeHold(tx, hold, found, nowMs);
  });
}

/** Records what a sweep did. What an operator has accepted is used up. */
export async function recordSweep(ledger: Ledger, swept: object, nowMs: number): Promise<void> {
  await ledger.site.update({
    where: { row: 1 },
    data: { sweptAt: new Date(nowMs), swept: swept as Prisma.InputJsonObject, acceptedOrphans: 0 },
  });
}
