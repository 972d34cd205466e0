import { accountAdjustedType } from '../../model/books/account-event.ts';
import { BerthError } from '../../model/errors.ts';
import type { TransferId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';
import { type NewEvent, writeEvent } from '../events/write-event.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { type AccountRecord, findAccount, openAccount, ownerAccount, siteAccount } from './accounts.ts';
import { postTransfer } from './post-transfers.ts';

export interface AdjustmentRecord {
  transferId: TransferId;
  account: AccountRecord;
  amountMicros: bigint;
  /** Of the account after it; null: the account has no lower limit. */
  balanceMicros: bigint | null;
  reason: string;
  createdAt: Date;
}

interface AdjustmentOrder {
  account: string;
  amountMicros: bigint;
  reason: string;
  /** The operator's. */
  keyId: string;
  nowMs: number;
}

/**
 * Adds to an account, or takes from it, against the site's account of adjustments. Once for each key, for good: the ledger forgets
 * the answers to requests after a day, and the books their keys never.
 * Throws not-found, insufficient-funds, amount-out-of-bounds, and conflict for a closed account.
 */
export async function acceptAdjustmentOnce(
  ledger: Ledger,
  request: IdempotentRequest & { key: string },
  order: AdjustmentOrder,
  answer: (adjustment: AdjustmentRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) =>
    answer(await adjust(tx, order, `adjustment/${request.ownerId}/${request.key}`, request.ownerId)),
  );
}

async function adjust(tx: Transaction, order: AdjustmentOrder, key: string, by: string): Promise<AdjustmentRecord> {
  const { amountMicros, reason, keyId, nowMs } = order;
  const account = await findAccount(tx, null, order.account);
  const { currency } = account;
  const counterpart = await openAccount(tx, siteAccount('adjustments', currency), { lowerLimitMicros: null, nowMs });
  const posted = await postTransfer(tx, {
    kind: 'adjustment',
    reason,
    subject: account.id,
    keyId,
    idempotencyKey: key,
    atMs: nowMs,
    postings: [
      { account: account.id, amountMicros },
      { account: counterpart.id, amountMicros: -amountMicros },
    ],
  });
  const entry = await tx.entry.findUniqueOrThrow({
    where: { transferId_accountId: { transferId: posted.id, accountId: account.id } },
    include: { transfer: true },
  });
  const at = entry.transfer.createdAt;
  const made = { transferId: posted.id, account, amountMicros, balanceMicros: entry.balance, createdAt: at };
  if (posted.replayed) return { ...made, reason: entry.transfer.reason };
  const data = {
    account: account.id,
    owner: account.ownerId,
    currency,
    transfer: posted.id,
    amountMicros: String(amountMicros),
    balanceMicros: entry.balance === null ? null : String(entry.balance),
    reason,
    key: keyId,
    at: isoOf(nowMs),
  };
  // An account is adjusted again and again: its entry's place tells the events apart.
  const event: NewEvent<typeof accountAdjustedType> = {
    type: accountAdjustedType,
    subject: account.id,
    owner: account.ownerId ?? by,
    time: data.at,
    data,
    n: Number(entry.seq),
  };
  await writeEvent(tx, event, 'reject');
  return { ...made, reason };
}

/** Opens an owner's account once for each key. Throws not-found for an owner, and conflict where the owner has that currency's already. */
export async function acceptAccountOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  order: { owner: string; currency: string; lowerLimitMicros: bigint; nowMs: number },
  answer: (account: AccountRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const { owner, currency, ...opening } = order;
    if ((await tx.owner.count({ where: { id: owner } })) === 0) throw new BerthError('not-found', `There is no owner ${owner}`);
    const known = await tx.account.count({ where: { kind: 'owner', holder: owner, name: '', currency } });
    if (known > 0) throw new BerthError('conflict', `Owner ${owner} has an account of ${currency} already`);
    return answer(await openAccount(tx, ownerAccount(owner, currency), opening));
  });
}
