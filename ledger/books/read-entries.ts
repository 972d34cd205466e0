import type { TransferKind } from '../../model/books/money.ts';
import type { TransferId } from '../../model/ids.ts';
import type { Transaction } from '../transaction.ts';

/** What a transfer added to an account. */
export interface EntryRecord {
  /** Its place among the account's entries. */
  seq: bigint;
  transferId: TransferId;
  kind: TransferKind;
  reason: string;
  subject: string;
  amountMicros: bigint;
  /** Of the account after it; null: the account has no lower limit. */
  balanceMicros: bigint | null;
  createdAt: Date;
}

/**
 * Entries of an account, newest first, and one more than `limit` where another page follows. Of an account with a lower limit a
 * page never changes; one of an account without may still get entries whose transactions are under way.
 * @param before the last place of the page before; null: the first page
 */
export async function readEntries(
  tx: Transaction,
  account: string,
  { limit, before }: { limit: number; before: bigint | null },
): Promise<EntryRecord[]> {
  const rows = await tx.entry.findMany({
    where: { accountId: account, ...(before !== null && { seq: { lt: before } }) },
    orderBy: { seq: 'desc' },
    take: limit + 1,
    include: { transfer: true },
  });
  return rows.map(({ seq, amount, balance, transfer }) => ({
    seq,
    transferId: transfer.id as TransferId,
    kind: transfer.kind,
    reason: transfer.reason,
    subject: transfer.subject,
    amountMicros: amount,
    balanceMicros: balance,
    createdAt: transfer.createdAt,
  }));
}
