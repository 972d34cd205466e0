import { z } from 'zod';
import { BerthError } from '../../model/errors.ts';
import { type SweepHold, sweepHolds, sweepHoldTexts } from '../../model/repository/sweep.ts';
import type { Ledger } from '../client.ts';
import { inTransaction, requestLimits } from '../transaction.ts';

const Found = z.object({
  mark: z.object({ site: z.string(), mark: z.number() }).nullable(),
  kept: z.number().optional(),
  orphans: z.number().optional(),
});

export interface SweepsRecord {
  site: string;
  hold: SweepHold | null;
  heldAt: Date | null;
  found: z.output<typeof Found> | null;
  sweptAt: Date | null;
  swept: unknown;
}

/** Reasons that another database is one of. */
const acceptsDatabase: ReadonlySet<SweepHold> = new Set(['other-site', 'ledger-older', 'ledger-restored']);

const Hold = z.enum(sweepHolds).nullable();

export async function readSweeps(ledger: Ledger): Promise<SweepsRecord> {
  const { id, hold, heldAt, found, sweptAt, swept } = await ledger.site.findUniqueOrThrow({ where: { row: 1 } });
  return { site: id, hold: Hold.parse(hold), heldAt, found: found === null ? null : Found.parse(found), sweptAt, swept };
}

/** Turns sweeps off. One that is under way ends. */
export async function changeSweepsOff(ledger: Ledger, nowMs: number): Promise<void> {
  await ledger.site.updateMany({ where: { row: 1, hold: null }, data: { hold: 'operator', heldAt: new Date(nowMs) } });
}

/**
 * Turns sweeps on again: the operator accepts what held them, and nothing else. Throws conflict when that is not the reason
 * any more, so that nobody accepts what they have not read.
 */
export async function changeSweepsOn(ledger: Ledger, accepted: SweepHold | null): Promise<void> {
  await inTransaction(
    ledger,
    async (tx) => {
      const [row] = await tx.$queryRaw<{ hold: SweepHold | null; found: unknown }[]>`SELECT hold, found FROM "Site" FOR UPDATE`;
      const hold = Hold.parse(row?.hold ?? null);
      if (hold === null) return;
      if (hold !== 'operator' && hold !== accepted)
        throw new BerthError(
          'conflict',
          `Sweeps are held for another reason: ${hold}, ${sweepHoldTexts[hold]}. Check the ledger and the repository, then accept that`,
        );
      const found = row?.found == null ? null : Found.parse(row.found);
      await tx.site.update({
        where: { row: 1 },
        data: {
          hold: null,
          heldAt: null,
          // The next sweep writes the database that it finds.
          ...(acceptsDatabase.has(hold) ? { database: null } : {}),
          ...(found?.mark == null ? {} : { acceptedSite: found.mark.site, acceptedMark: BigInt(found.mark.mark) }),
          ...(found?.orphans === undefined ? {} : { acceptedOrphans: found.orphans }),
        },
      });
      // The repository's copy is overwritten with a mark above its own, so that it is not above this ledger's ever again.
      if (found?.mark != null) await tx.$executeRaw`UPDATE "Site" SET mark = GREATEST(mark, ${BigInt(found.mark.mark)})`;
    },
    requestLimits,
  );
}
