import { z } from 'zod';
import { Prisma } from '../generated/prisma/client.ts';
import type { Ledger } from './client.ts';
import { inTransaction, type Transaction } from './transaction.ts';

/**
 * Counts of rows that have ended, for metrics. What ended until a mark does not change any more, and is kept as a count; what
 * ended since is counted by an index of the end, and added to the kept counts when it has become much. So a scrape costs the
 * same however much has ended, and nobody who ends a row waits for a counter.
 */

/** A row's values that metrics tell apart, its end, and what is summed up. */
interface Subject {
  label: Prisma.Sql;
  from: Prisma.Sql;
  end: Prisma.Sql;
  sums: Prisma.Sql;
}

const noSums = Prisma.sql`0::float8 AS seconds, 0::float8 AS "downtimeS", 0::float8 AS bytes`;

const subjects = {
  tasks: {
    label: Prisma.sql`json_build_array(state)`,
    from: Prisma.sql`"Task"`,
    end: Prisma.sql`"finishedAt"`,
    sums: noSums,
  },
  migrations: {
    label: Prisma.sql`json_build_array(mode, state, guest)`,
    from: Prisma.sql`"Migration"`,
    end: Prisma.sql`"finishedAt"`,
    sums: Prisma.sql`COALESCE(sum(extract(epoch FROM "finishedAt" - COALESCE("startedAt", "createdAt"))), 0)::float8 AS seconds,
      COALESCE(sum("downtimeMs"), 0)::float8 / 1000 AS "downtimeS", COALESCE(sum(bytes), 0)::float8 AS bytes`,
  },
  vms: {
    label: Prisma.sql`json_build_array(boot, "bootWhy")`,
    from: Prisma.sql`(SELECT * FROM "Vm" WHERE state = 'removed') v`,
    end: Prisma.sql`"endedAt"`,
    sums: noSums,
  },
} as const satisfies Record<string, Subject>;

type CountedSubject = keyof typeof subjects;

const EndedGroup = z.object({
  label: z.string().transform((text) => z.array(z.string().nullable()).parse(JSON.parse(text))),
  rows: z.number(),
  seconds: z.number(),
  downtimeS: z.number(),
  bytes: z.number(),
});
type EndedGroup = z.infer<typeof EndedGroup>;

/** Transactions that end a row are over, and clocks agree, long before: no row gets an end before a mark of this age. */
const settledS = 3600;
/** So many rows since the mark are counted in some milliseconds. */
const foldedAt = 5000;

/** Groups of what ended after the mark, until a moment. */
const since = ({ label, from, end, sums }: Subject, subject: CountedSubject, until: Prisma.Sql): Prisma.Sql => Prisma.sql`
  SELECT ${label}::text AS label, count(*)::float8 AS rows, ${sums} FROM ${from}
  WHERE ${end} > (SELECT until FROM "EndedMark" WHERE subject = ${subject}) AND ${end} <= ${until} GROUP BY 1`;

/** All rows of a subject that have ended, by label. */
export async function readEnded(ledger: Ledger, subject: CountedSubject): Promise<EndedGroup[]> {
  const recent = since(subjects[subject], subject, Prisma.sql`'infinity'`);
  // One statement, so that what is added to the kept counts meanwhile is seen in one of both.
  const rows = await ledger.$queryRaw<{ kept: boolean }[]>`
    SELECT false AS kept, r.* FROM (${recent}) r
    UNION ALL SELECT true, label, rows::float8, seconds, "downtimeS", bytes FROM "EndedCount" WHERE subject = ${subject}`;
  const groups = z.array(EndedGroup).parse(rows);
  const counted = groups.filter((_, i) => !rows[i]!.kept).reduce((sum, group) => sum + group.rows, 0);
  if (counted > foldedAt) await inTransaction(ledger, (tx) => fold(tx, subject));
  return groups;
}

/**
 * The last moment, not after this one, until which all that has ended is kept as a count: rows with an end before it may be
 * removed, and are counted all the same.
 */
export async function endedUntil(ledger: Ledger, before: Date): Promise<Date> {
  const read = () => ledger.endedMark.findMany();
  const behind = (await read()).filter(({ until }) => until < before);
  for (const { subject } of behind) await inTransaction(ledger, (tx) => fold(tx, subject as CountedSubject));
  const marks = behind.length === 0 ? [] : await read();
  return new Date(Math.min(before.getTime(), ...marks.map(({ until }) => until.getTime())));
}

/** Adds what has ended until a while ago to the kept counts, and moves the mark. One at a time; another one does nothing. */
async function fold(tx: Transaction, subject: CountedSubject): Promise<void> {
  const marks = await tx.$queryRaw<{ until: Date; next: Date }[]>`
    SELECT until, date_trunc('milliseconds', now() - ${settledS} * interval '1 second') AS next
    FROM "EndedMark" WHERE subject = ${subject} FOR UPDATE SKIP LOCKED`;
  const mark = marks[0];
  if (mark === undefined || mark.next <= mark.until) return;
  const next = Prisma.sql`${mark.next}`;
  await tx.$executeRaw`
    INSERT INTO "EndedCount" (subject, label, rows, seconds, "downtimeS", bytes)
    SELECT ${subject}, r.label, r.rows::bigint, r.seconds, r."downtimeS", r.bytes FROM (${since(subjects[subject], subject, next)}) r
    ON CONFLICT (subject, label) DO UPDATE SET rows = "EndedCount".rows + EXCLUDED.rows,
      seconds = "EndedCount".seconds + EXCLUDED.seconds, "downtimeS" = "EndedCount"."downtimeS" + EXCLUDED."downtimeS",
      bytes = "EndedCount".bytes + EXCLUDED.bytes`;
  await tx.$executeRaw`UPDATE "EndedMark" SET until = ${mark.next} WHERE subject = ${subject}`;
}
