import { BerthError } from '../../model/errors.ts';
import type { AccountId } from '../../model/ids.ts';
import type { Transaction } from '../transaction.ts';
import { type AccountRecord, type AccountRef, openAccount } from './accounts.ts';
import { type NewTransfer, type PostedTransfer, type Posting, postTransfer, postTransfers } from './post-transfers.ts';

/**
 * Money that is set aside for one purpose, such as a lease: an account of its own, which never falls below zero. So no more is
 * captured or released than was placed, whatever runs at once, and what is held is what the account has.
 */
interface HoldRef {
  /** The owner whose money it is. */
  ownerId: string;
  /** What it is for: the id of a resource. */
  subject: string;
  currency: string;
}

type Act = Pick<NewTransfer, 'reason' | 'keyId' | 'idempotencyKey' | 'atMs'>;

export const holdAccount = ({ ownerId, subject, currency }: HoldRef): AccountRef => ({
  kind: 'hold',
  ownerId,
  holder: ownerId,
  name: subject,
  currency,
});

const openHold = (tx: Transaction, hold: HoldRef, nowMs: number): Promise<AccountRecord> =>
  openAccount(tx, holdAccount(hold), { lowerLimitMicros: 0n, nowMs });

const sumOf = (postings: readonly Posting[]): bigint => postings.reduce((sum, { amountMicros }) => sum + amountMicros, 0n);

const move = (from: AccountId, to: AccountId, amountMicros: bigint): Posting[] => [
  { account: from, amountMicros: -amountMicros },
  { account: to, amountMicros },
];

/**
 * Sets money aside; a further call for the same subject adds to it. Throws as postTransfers does: insufficient-funds where the
 * account has not so much above its limit, conflict after the hold was released.
 * @param from the owner's account that pays
 */
export async function placeHold(
  tx: Transaction,
  hold: HoldRef,
  { from, amountMicros, ...act }: Act & { from: AccountId; amountMicros: bigint },
): Promise<PostedTransfer> {
  const { id } = await openHold(tx, hold, act.atMs);
  return postTransfer(tx, { ...act, kind: 'hold', subject: hold.subject, postings: move(from, id, amountMicros) });
}

/**
 * Pays out of a hold, to one account or several; the rest stays held.
 * @param to what each is paid, above zero
 */
export async function captureHold(
  tx: Transaction,
  hold: HoldRef,
  { to, ...act }: Act & { to: readonly Posting[] },
): Promise<PostedTransfer> {
  const { id } = await openHold(tx, hold, act.atMs);
  return postTransfer(tx, captureOf(id, hold, { ...act, to }));
}

function captureOf(id: AccountId, hold: HoldRef, { to, ...act }: Act & { to: readonly Posting[] }): NewTransfer {
  if (to.some(({ amountMicros }) => amountMicros <= 0n)) throw new Error(`BUG: the capture ${act.idempotencyKey} pays nothing`);
  return { ...act, kind: 'capture', subject: hold.subject, postings: [{ account: id, amountMicros: -sumOf(to) }, ...to] };
}

/**
 * Ends a hold: pays out of it, gives what is left back, and closes it. Nothing is placed or captured any more; a repeat changes
 * nothing. In one transaction with the end of what the money was held for.
 * @param pay what each is paid, above zero; none: all is given back
 * @param rest the owner's account
 * @returns how much was given back, in micro-units; 0 for a hold that was closed before
 */
export async function releaseHold(
  tx: Transaction,
  hold: HoldRef,
  { pay = [], rest, ...act }: Act & { pay?: readonly Posting[]; rest: AccountId },
): Promise<bigint> {
  const { id } = await openHold(tx, hold, act.atMs);
  // All that is posted to below, in the order in which posting locks them: what is read here stays so to the commit.
  const accounts = [id, rest, ...pay.map(({ account }) => account)];
  const rows = await tx.$queryRaw<{ id: string; balance: bigint; closedAt: Date | null }[]>`
    SELECT id, balance, "closedAt" FROM "Account" WHERE id = ANY(${accounts}) AND "lowerLimit" IS NOT NULL
    ORDER BY id FOR NO KEY UPDATE`;
  const held = rows.find((row) => row.id === id)!;
  if (held.closedAt !== null) return 0n;
  const left = held.balance - sumOf(pay);
  if (left < 0n)
    throw new BerthError('insufficient-funds', `Hold ${id} has ${held.balance} micro-units; ${sumOf(pay)} are to be paid`);
  await postTransfers(tx, [
    ...(pay.length === 0 ? [] : [captureOf(id, hold, { ...act, idempotencyKey: `${act.idempotencyKey}/capture`, to: pay })]),
    ...(left === 0n ? [] : [{ ...act, kind: 'release' as const, subject: hold.subject, postings: move(id, rest, left) }]),
  ]);
  await tx.account.update({ where: { id }, data: { closedAt: new Date(act.atMs) } });
  return left;
}
