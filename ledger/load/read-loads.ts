import { z } from 'zod';
import type { LearnedRow } from '../../model/load/load.ts';
import type { Ledger } from '../client.ts';
import { findHost } from '../hosts/read-hosts.ts';
import { isoOf } from '../transaction.ts';
import { findVm } from '../vms/read-vms.ts';
import { hourMs, type LoadRow, LoadSeries, minuteMs, parseChunk } from './load-rows.ts';

/** Which part of a series: `untilMs` is not in it. */
export interface LoadRange {
  fromMs: number;
  untilMs: number;
  stepMs: number;
}

export interface LoadPoints {
  /** Rows of host or VM fields, with their time and how much of it was measured. */
  points: { atMs: number; seconds: number; values: (number | null)[] }[];
}

const ChunkRow = z.strictObject({
  hostId: z.string(),
  detail: z.enum(['sample', 'minute', 'hour']),
  fromMs: z.number(),
  rows: z.string().nullable(),
});

/** The longest chunk, by which one that begins earlier may reach into a range. */
const longestChunkMs = 2 * hourMs;

/** The details that a step of this length is made of. What is older than the finest of them is there in the coarser ones. */
function detailsOf(stepMs: number): string[] {
  if (stepMs >= hourMs) return ['sample', 'hour'];
  return stepMs >= minuteMs ? ['sample', 'minute'] : ['sample'];
}

const pointsOf = (series: LoadSeries, fromMs: number): LoadPoints => ({
  points: series.rows().map(([offsetS, seconds, ...values]) => ({ atMs: fromMs + offsetS * 1000, seconds, values })),
});

/** Throws not-found. */
export async function readHostLoad(ledger: Ledger, hostId: string, { fromMs, untilMs, stepMs }: LoadRange): Promise<LoadPoints> {
  await findHost(ledger, hostId);
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT "hostId", detail::text, (extract(epoch FROM "fromAt") * 1000)::float8 AS "fromMs", host AS rows FROM "LoadChunk"
    WHERE "hostId" = ${hostId} AND detail::text = ANY(${detailsOf(stepMs)}) AND "untilAt" > ${isoOf(fromMs)}::timestamptz
      AND "untilAt" < ${isoOf(untilMs + longestChunkMs)}::timestamptz`;
  const series = new LoadSeries('host', fromMs, stepMs);
  for (const chunk of z.array(ChunkRow).parse(rows))
    for (const row of JSON.parse(chunk.rows ?? '[]') as LoadRow[]) series.add(chunk.fromMs, row, untilMs);
  return pointsOf(series, fromMs);
}

const Residence = z.strictObject({ hostId: z.string(), fromMs: z.number().nullable(), untilMs: z.number().nullable() });

/**
 * Of each host only the time in which the VM was there: what a host says of another VM counts for nothing. Throws not-found.
 * @param owner whose VM; null: any owner's
 */
export async function readVmLoad(
  ledger: Ledger,
  owner: string | null,
  vmId: string,
  { fromMs, untilMs, stepMs }: LoadRange,
): Promise<LoadPoints> {
  await findVm(ledger, owner, vmId);
  const residences = z.array(Residence).parse(
    await ledger.$queryRaw<unknown[]>`
      SELECT s."hostId", (extract(epoch FROM COALESCE(s.since, lag(s.until) OVER (ORDER BY s.generation), v."startedAt")) * 1000)::float8
        AS "fromMs", (extract(epoch FROM s.until) * 1000)::float8 AS "untilMs"
      FROM "VmStay" s JOIN "Vm" v ON v.id = s."vmId" WHERE s."vmId" = ${vmId}
      UNION ALL
      SELECT "hostId", (extract(epoch FROM GREATEST("startedAt", (SELECT max(until) FROM "VmStay" WHERE "vmId" = ${vmId}))) * 1000)::float8,
        (extract(epoch FROM "endedAt") * 1000)::float8
      FROM "Vm" WHERE id = ${vmId} AND "hostId" IS NOT NULL AND "startedAt" IS NOT NULL`,
  );
  const series = new LoadSeries('vm', fromMs, stepMs);
  const hosts = [...new Set(residences.map(({ hostId }) => hostId))];
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT "hostId", detail::text, (extract(epoch FROM "fromAt") * 1000)::float8 AS "fromMs", (vms::json -> ${vmId})::text AS rows FROM "LoadChunk"
    WHERE "hostId" = ANY(${hosts}) AND detail::text = ANY(${detailsOf(stepMs)}) AND "untilAt" > ${isoOf(fromMs)}::timestamptz
      AND "untilAt" < ${isoOf(untilMs + longestChunkMs)}::timestamptz AND vms LIKE ${`%"${vmId}":%`}`;
  for (const chunk of z.array(ChunkRow).parse(rows))
    for (const row of JSON.parse(chunk.rows ?? '[]') as LoadRow[])
      if (residences.some((one) => one.hostId === chunk.hostId && wasThere(one, chunk, row)))
        series.add(chunk.fromMs, row, untilMs);
  return pointsOf(series, fromMs);
}

/** A row of a minute or an hour is of a part of it. */
const spanMs = { sample: 0, minute: minuteMs, hour: hourMs } as const;

function wasThere(
  { fromMs, untilMs }: z.output<typeof Residence>,
  chunk: z.output<typeof ChunkRow>,
  [offsetS, durationS]: LoadRow,
): boolean {
  const beginMs = chunk.fromMs + offsetS * 1000;
  const endMs = beginMs + Math.max(durationS * 1000, spanMs[chunk.detail]);
  return (untilMs === null || beginMs < untilMs) && (fromMs === null || endMs > fromMs);
}

const Latest = z.strictObject({
  hostId: z.string(),
  fromMs: z.number(),
  untilMs: z.number(),
  processors: z.number(),
  memoryMiB: z.int(),
  diskMiB: z.int(),
  host: z.string(),
  vms: z.string(),
  latest: z.string(),
});

/** The last sample of a host and of its VMs. */
export interface LatestLoad {
  hostId: string;
  /** When it ended. */
  atMs: number;
  processors: number;
  memoryMiB: number;
  diskMiB: number;
  host: (number | null)[];
  vms: Map<string, (number | null)[]>;
  processorUse: number[];
  learned: Record<string, LearnedRow>;
}

/** What is older is no load of now: three batches at the longest interval. */
const freshMs = 16 * 60_000;

/** Of these hosts, or of all, that have sent something lately. */
export async function readLatestLoads(ledger: Ledger, hosts: readonly string[] | null, nowMs: number): Promise<LatestLoad[]> {
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT c."hostId", (extract(epoch FROM c."fromAt") * 1000)::float8 AS "fromMs", (extract(epoch FROM c."untilAt") * 1000)::float8 AS "untilMs",
      c.processors, c."memoryMiB", c."diskMiB", c.host, c.vms, c.latest
    FROM "Host" h CROSS JOIN LATERAL (
      SELECT * FROM "LoadChunk" c WHERE c."hostId" = h.id AND c.detail = 'sample' AND c."untilAt" > ${isoOf(nowMs - freshMs)}::timestamptz
      ORDER BY c."untilAt" DESC LIMIT 1) c
    WHERE h."removedAt" IS NULL AND (${hosts === null}::boolean OR h.id = ANY(${hosts ?? []}))`;
  return z
    .array(Latest)
    .parse(rows)
    .map((row) => {
      const { host, vms } = parseChunk(row.host, row.vms);
      const { processorUse, learned } = JSON.parse(row.latest) as Pick<LatestLoad, 'processorUse' | 'learned'>;
      const [offsetS = 0, , ...values] = host.at(-1) ?? [];
      const last = Object.entries(vms).flatMap(([vm, series]) => {
        const [at, , ...load] = series.at(-1)!;
        // A VM that left during the batch is not in its last sample.
        return at === offsetS ? [[vm, load] as const] : [];
      });
      const { hostId, untilMs, processors, memoryMiB, diskMiB } = row;
      return { hostId, atMs: untilMs, processors, memoryMiB, diskMiB, host: values, vms: new Map(last), processorUse, learned };
    });
}
