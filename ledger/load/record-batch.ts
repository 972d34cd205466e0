import { BerthError } from '../../model/errors.ts';
import type { LoadBatch } from '../../model/load/load.ts';
import type { Ledger } from '../client.ts';
import { isoOf } from '../transaction.ts';
import type { ChunkRows, LoadRow } from './load-rows.ts';

/** Where each sample lies after the begin of the first: its host says how long ago it ended, by whatever clock. */
function chunkOf(batch: LoadBatch, nowMs: number): ChunkRows & { untilMs: number } {
  const agoS = Math.max(...batch.samples.map((sample) => sample.agoS + sample.durationS));
  const placed = batch.samples
    .map((sample) => ({ ...sample, offsetS: Math.round((agoS - sample.agoS - sample.durationS) * 1000) / 1000 }))
    .sort((a, b) => a.offsetS - b.offsetS);
  const host: LoadRow[] = [];
  const vms: Record<string, LoadRow[]> = {};
  for (const { offsetS, durationS, ...load } of placed) {
    host.push([offsetS, durationS, ...load.host]);
    for (const [vm, values] of Object.entries(load.vms)) {
      vms[vm] ??= [];
      vms[vm].push([offsetS, durationS, ...values]);
    }
  }
  const fromMs = Math.round(nowMs - agoS * 1000);
  const untilMs = Math.round(nowMs - Math.min(...batch.samples.map((sample) => sample.agoS)) * 1000);
  return { fromMs, untilMs, host, vms };
}

/**
 * Keeps what a host has sent as one row, whatever it has measured. A batch that comes again changes nothing. Throws not-found for a
 * host that is none.
 */
export async function acceptLoadBatch(ledger: Ledger, hostId: string, batch: LoadBatch, nowMs: number): Promise<void> {
  const { fromMs, untilMs, host, vms } = chunkOf(batch, nowMs);
  const latest = JSON.stringify({ processorUse: batch.processorUse, learned: batch.learned });
  const written = await ledger.$executeRaw`
    INSERT INTO "LoadChunk" ("hostId", detail, id, "fromAt", "untilAt", processors, "memoryMiB", "diskMiB", host, vms, latest)
    SELECT h.id, 'sample', ${batch.id}, ${isoOf(fromMs)}::timestamptz, ${isoOf(untilMs)}::timestamptz, ${batch.processors}::float8,
      ${batch.memoryMiB}::int, ${batch.diskMiB}::int, ${JSON.stringify(host)}, ${JSON.stringify(vms)}, ${latest}
    FROM "Host" h WHERE h.id = ${hostId} AND h."removedAt" IS NULL
    ON CONFLICT ("hostId", detail, id) DO NOTHING`;
  if (written > 0) return;
  const known = await ledger.loadChunk.count({ where: { hostId, detail: 'sample', id: batch.id } });
  if (known === 0) throw new BerthError('not-found', `There is no host ${hostId}`);
}
