import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { refuseOverQuota } from './uploads.ts';

/** A log that grows: of a node of a task, or of the VM of a build, which is its node 0. */
export interface LogGrowth {
  holderId: string;
  node: number;
  ownerId: string;
  /** What is there of it, and what there will be. */
  fromBytes: number;
  toBytes: number;
  /** Bytes that this owner may keep, where its row says nothing. */
  quotaBytes: number;
}

/** Above this a log counts in steps of this size, so that not every piece of one that grows for hours is a transaction. */
const stepBytes = 64 * 1024;
const countedBytes = (bytes: number): number => (bytes <= stepBytes ? bytes : Math.ceil(bytes / stepBytes) * stepBytes);

/** Where this log ends because its owner's quota was used up; null where it goes on. */
export async function readLogCut(
  ledger: Ledger,
  { holderId, node }: Pick<LogGrowth, 'holderId' | 'node'>,
): Promise<number | null> {
  const row = await ledger.storedLog.findUnique({ where: { holderId_node: { holderId, node } }, select: { cutBytes: true } });
  return row === null || row.cutBytes === null ? null : Number(row.cutBytes);
}

/**
 * Counts a log's growth against its owner's quota. A log never fails what it is of: where the quota is used up it ends, for good.
 * Returns where it ends, or null.
 */
export async function changeLogSize(ledger: Ledger, growth: LogGrowth): Promise<number | null> {
  const { holderId, node, ownerId, fromBytes, toBytes } = growth;
  const row = await ledger.storedLog.findUnique({ where: { holderId_node: { holderId, node } } });
  if (row !== null && row.cutBytes !== null) return Number(row.cutBytes);
  if (row !== null && row.sizeBytes >= toBytes) return null;
  const bytes = BigInt(countedBytes(toBytes));
  const count = async (tx: Transaction): Promise<void> => {
    await tx.$executeRaw`
      INSERT INTO "StoredLog" ("holderId", node, "ownerId", "sizeBytes") VALUES (${holderId}, ${node}, ${ownerId}, ${bytes})
      ON CONFLICT ("holderId", node) DO UPDATE SET "sizeBytes" = GREATEST("StoredLog"."sizeBytes", EXCLUDED."sizeBytes")`;
    await refuseOverQuota(tx, { ownerId, quotaBytes: growth.quotaBytes });
  };
  try {
    await inTransaction(ledger, count, requestLimits);
    return null;
  } catch (error) {
    if (!(error instanceof BerthError) || error.code !== 'quota-exceeded') throw error;
  }
  const cut = await ledger.$queryRaw<{ cutBytes: bigint }[]>`
    INSERT INTO "StoredLog" ("holderId", node, "ownerId", "sizeBytes", "cutBytes")
    VALUES (${holderId}, ${node}, ${ownerId}, 0, ${BigInt(fromBytes)})
    ON CONFLICT ("holderId", node) DO UPDATE SET "cutBytes" = COALESCE("StoredLog"."cutBytes", EXCLUDED."cutBytes")
    RETURNING "cutBytes"`;
  return Number(cut[0]?.cutBytes ?? fromBytes);
}

/** Logs whose bytes are gone count no more. */
export async function sweepLogSizes(ledger: Ledger, holderIds: string[]): Promise<void> {
  if (holderIds.length > 0) await ledger.storedLog.deleteMany({ where: { holderId: { in: holderIds } } });
}
