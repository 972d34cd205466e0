import { maxAmountMicros, maxPostings, type TransferKind } from '../../model/books/money.ts';
import { BerthError } from '../../model/errors.ts';
import { type AccountId, newId, type TransferId } from '../../model/ids.ts';
import { isoOf, type Transaction } from '../transaction.ts';

/** What a transfer adds to one account, in micro-units of the account's currency; below zero it takes. */
export interface Posting<A = AccountId> {
  account: A;
  amountMicros: bigint;
}

/** An account by its place in a list, counted from 0, of which the ids are not known yet. */
export type AccountPlace = number;

/** @param A how its postings name their accounts */
export interface NewTransfer<A = AccountId> {
  kind: TransferKind;
  /** Why, for the people who read the entries. */
  reason: string;
  /** The id of the resource that it is for. */
  subject: string;
  /** The id of the API key by which it was requested; null: by none. */
  keyId: string | null;
  /** Names the transfer for good: however often it is posted, it is in the books once. */
  idempotencyKey: string;
  /** 2 to 64, each for another account; they sum to zero in each currency. */
  postings: readonly Posting<A>[];
  /** Milliseconds since 1970. */
  atMs: number;
}

export interface PostedTransfer {
  id: TransferId;
  /** It was in the books before. */
  replayed: boolean;
}

/** A transfer that breaks the rules of its type is an error of the code that makes it, and not of its caller. */
function assertWellFormed({ idempotencyKey, postings }: NewTransfer<unknown>): void {
  const wrong = (why: string) => new Error(`BUG: the transfer ${idempotencyKey} ${why}`);
  if (postings.length < 2 || postings.length > maxPostings) throw wrong(`has ${postings.length} postings`);
  if (new Set(postings.map(({ account }) => account)).size < postings.length) throw wrong('has an account twice');
  if (postings.some(({ amountMicros }) => amountMicros === 0n)) throw wrong('has a posting of nothing');
  // Of each currency only the commit's constraint knows, which no caller passes.
  if (postings.reduce((sum, { amountMicros }) => sum + amountMicros, 0n) !== 0n) throw wrong('does not sum to zero');
}

function refuseOutOfBounds({ postings }: NewTransfer<unknown>): void {
  const beyond = postings.find(({ amountMicros }) => amountMicros > maxAmountMicros || amountMicros < -maxAmountMicros);
  if (beyond === undefined) return;
  throw new BerthError(
    'amount-out-of-bounds',
    `${beyond.amountMicros} micro-units for account ${beyond.account}: a posting has at most ${maxAmountMicros}`,
  );
}

/**
 * Posts transfers, all or none, in the transaction of the facts that they are for; the only writer of "Transfer" and "Entry".
 * It waits for the accounts with a lower limit, in the order of their ids, and keeps them locked to the end of the transaction:
 * so a transaction posts with one call, and as late as it can. Throws insufficient-funds, amount-out-of-bounds, not-found for an
 * account, conflict for a closed one, and idempotency-mismatch where the key names another transfer.
 * @returns in the order of the transfers
 */
export async function postTransfers(tx: Transaction, transfers: readonly NewTransfer[]): Promise<PostedTransfer[]> {
  if (transfers.length === 0) return [];
  const wanted = transfers.map((transfer) => ({ transfer, row: transferRow(transfer) }));
  // One function of the database, and so one round trip in which locks are held.
  const posted = await tx.$queryRaw<{ id: TransferId }[]>`
    SELECT id FROM berth_post_transfers(${JSON.stringify(numbered(wanted.map(({ row }) => row)))}::jsonb) AS id`;
  const fresh = new Set(posted.map(({ id }) => id));
  const known = wanted.filter(({ row }) => !fresh.has(row.id)).map(({ transfer }) => transfer);
  const earlier = known.length === 0 ? new Map<string, TransferId>() : await findEarlier(tx, known);
  return wanted.map(({ row, transfer }) => {
    const before = earlier.get(transfer.idempotencyKey);
    return before === undefined ? { id: row.id, replayed: false } : { id: before, replayed: true };
  });
}

/** One transfer: see postTransfers. */
export async function postTransfer(tx: Transaction, transfer: NewTransfer): Promise<PostedTransfer> {
  const [posted] = await postTransfers(tx, [transfer]);
  return posted!;
}

/**
 * Transfers as `berth_post_transfers` and `berth_charge_bill` take them, in their order. Throws amount-out-of-bounds.
 */
export const transferRows = (transfers: readonly NewTransfer<AccountId | AccountPlace>[]) => numbered(transfers.map(transferRow));

const numbered = <T extends object>(rows: readonly T[]) => rows.map((row, n) => ({ ...row, n }));

function transferRow(transfer: NewTransfer<AccountId | AccountPlace>) {
  assertWellFormed(transfer);
  refuseOutOfBounds(transfer);
  const { kind, reason, subject, idempotencyKey, keyId, atMs, postings } = transfer;
  return {
    id: newId('transfer'),
    kind,
    reason,
    subject,
    apiKeyId: keyId,
    idempotencyKey,
    at: isoOf(atMs),
    // As texts: JSON.stringify takes no bigint, and PostgreSQL reads them as bigints.
    postings: postings.map(({ account, amountMicros }) => ({
      ...(typeof account === 'number' ? { place: account } : { account }),
      amount: String(amountMicros),
    })),
  };
}

/** The transfers that are in the books under these keys, by key. The statement before has waited for their commits. */
async function findEarlier(tx: Transaction, known: readonly NewTransfer[]): Promise<Map<string, TransferId>> {
  const rows = await tx.transfer.findMany({
    where: { idempotencyKey: { in: known.map(({ idempotencyKey }) => idempotencyKey) } },
    select: { id: true, kind: true, subject: true, idempotencyKey: true, entries: { select: { accountId: true, amount: true } } },
  });
  const byKey = new Map(rows.map((row) => [row.idempotencyKey, row]));
  for (const transfer of known) {
    const row = byKey.get(transfer.idempotencyKey);
    if (row === undefined) throw new Error(`BUG: transfer ${transfer.idempotencyKey} was posted before, and is not there`);
    const amounts = new Map(row.entries.map(({ accountId, amount }) => [accountId, amount]));
    const same =
      row.kind === transfer.kind &&
      row.subject === transfer.subject &&
      amounts.size === transfer.postings.length &&
      transfer.postings.every(({ account, amountMicros }) => amounts.get(account) === amountMicros);
    if (!same)
      throw new BerthError(
        'idempotency-mismatch',
        `${transfer.idempotencyKey} has named another transfer, ${row.id}; take a new key`,
      );
  }
  return new Map(rows.map(({ idempotencyKey, id }) => [idempotencyKey, id as TransferId]));
}
