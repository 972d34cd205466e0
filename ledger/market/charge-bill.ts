import { type AccountKind, maxPostings } from '../../model/books/money.ts';
import { type AccountId, newId } from '../../model/ids.ts';
import { billOf } from '../../model/money/bill.ts';
import { type Charge, chargeOf, type Funds, type PaidShares } from '../../model/money/charge.ts';
import { costByProvider, type MeteredInterval } from '../../model/money/cost.ts';
import { least } from '../../model/money/exact.ts';
import { openAccount } from '../books/accounts.ts';
import { holdAccount } from '../books/holds.ts';
import { type NewTransfer, type Posting, postTransfers } from '../books/post-transfers.ts';
import type { Transaction } from '../transaction.ts';
import { type BillRow, storedPaid } from './bill-row.ts';
import { noteSpending } from './budgets.ts';

interface ChargeRequest {
  /** All usage of the lease until now. */
  intervals: readonly MeteredInterval[];
  /** The lease has ended: what is left of the hold is given back. `broken`: by the fault of the site, which had promised it. */
  end: { broken: boolean } | null;
  nowMs: number;
}

export interface ChargedBill {
  chargedMicros: bigint;
  uncollectedMicros: bigint;
  heldMicros: bigint;
  /** What the hold lacks of what it should have. */
  shortMicros: bigint;
}

interface Payers {
  hold: AccountId;
  funds: Funds;
}

/** Locks the accounts that pay, in the order in which posting locks them: what is read of them stays so to the commit. */
async function lockPayers(tx: Transaction, bill: BillRow, nowMs: number): Promise<Payers> {
  const ref = holdAccount({ ownerId: bill.ownerId, subject: bill.leaseId, currency: bill.currency });
  const { id: hold } = await openAccount(tx, ref, { lowerLimitMicros: 0n, nowMs });
  const rows = await tx.$queryRaw<{ id: string; balance: bigint; lowerLimit: bigint }[]>`
    SELECT id, balance, "lowerLimit" FROM "Account" WHERE id IN (${hold}, ${bill.accountId}) ORDER BY id FOR NO KEY UPDATE`;
  const above = (id: string): bigint => {
    const row = rows.find((one) => one.id === id);
    return row === undefined ? 0n : row.balance - row.lowerLimit;
  };
  const funds = {
    heldMicros: above(hold),
    availableMicros: above(bill.accountId),
    uncollectedMicros: bill.uncollectedMicros,
  };
  return { hold, funds };
}

interface Share {
  kind: AccountKind;
  holder: string;
  name: string;
  amountMicros: bigint;
}

const isSome = ({ amountMicros }: { amountMicros: bigint }): boolean => amountMicros !== 0n;

/** What the parties of a charge get, in the order of the amounts: what comes back from one is there for the next. */
const sharesOf = ({ taxMicros, siteMicros, providerMicros }: Charge): Share[] =>
  [
    { kind: 'tax' as const, holder: '', name: '', amountMicros: taxMicros },
    { kind: 'site' as const, holder: '', name: 'fees', amountMicros: siteMicros },
    ...[...providerMicros].map(([holder, amountMicros]) => ({ kind: 'provider' as const, holder, name: '', amountMicros })),
  ]
    .filter(isSome)
    .sort((a, b) => (a.amountMicros < b.amountMicros ? -1 : 1));

/** Postings to the accounts of shares, which are opened where they are not there yet: in the order of their names, so that nobody waits in a circle. */
async function openShares(tx: Transaction, shares: readonly Share[], currency: string, nowMs: number): Promise<Posting[]> {
  if (shares.length === 0) return [];
  const keyOf = ({ kind, holder, name }: Omit<Share, 'amountMicros'>) => `${kind}/${name}/${holder}`;
  const wanted = shares.map(({ kind, holder, name }) => ({ kind, holder, name, currency }));
  const read = () => tx.account.findMany({ where: { OR: wanted }, select: { id: true, kind: true, holder: true, name: true } });
  let found = await read();
  if (found.length < wanted.length) {
    const createdAt = new Date(nowMs);
    const data = wanted
      .toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
      .map((one) => ({ ...one, id: newId('account'), createdAt }));
    await tx.account.createMany({ data, skipDuplicates: true });
    found = await read();
  }
  const ids = new Map(found.map((row) => [keyOf(row), row.id as AccountId]));
  return shares.map((share) => ({ account: ids.get(keyOf(share))!, amountMicros: share.amountMicros }));
}

const sumOf = (postings: readonly Posting[]): bigint => postings.reduce((sum, { amountMicros }) => sum + amountMicros, 0n);

/** What the hold pays to the parties, in as many transfers as they need. */
function capturesOf(hold: AccountId, parties: readonly Posting[], act: Omit<NewTransfer, 'postings' | 'kind'>): NewTransfer[] {
  const most = maxPostings - 1;
  return Array.from({ length: Math.ceil(parties.length / most) }, (_, n) => {
    const part = parties.slice(n * most, (n + 1) * most);
    const postings = [{ account: hold, amountMicros: -sumOf(part) }, ...part].filter(isSome);
    return { ...act, kind: 'capture', idempotencyKey: `${act.idempotencyKey}/${n}`, postings };
  });
}

const addTo = (paid: PaidShares, charge: Charge): PaidShares => ({
  buyerMicros: paid.buyerMicros - charge.holdMicros - charge.accountMicros - charge.uncollectedMicros,
  taxMicros: paid.taxMicros + charge.taxMicros,
  siteMicros: paid.siteMicros + charge.siteMicros,
  providerMicros: new Map(
    [...charge.providerMicros].map(([name, amount]) => [name, amount + (paid.providerMicros.get(name) ?? 0n)]),
  ),
});

/**
 * Charges a lease for all its usage until now, and fills its hold again, or ends the bill and gives the rest of the hold back. The
 * caller has locked the bill; the accounts are locked from here on, so it is the last of its transaction. All of a charge is
 * computed anew from the usage and compared with what was charged: so however often it is charged, its end has the exact sum.
 */
export async function chargeBill(tx: Transaction, bill: BillRow, { intervals, end, nowMs }: ChargeRequest): Promise<ChargedBill> {
  const shares = billOf(bill.terms, costByProvider(bill.terms, intervals), {
    totalMicros: bill.totalMicros,
    broken: end?.broken ?? false,
  });
  const { hold, funds } = await lockPayers(tx, bill, nowMs);
  const charge = chargeOf(shares, bill.paid, funds);
  const n = bill.charges + 1;
  const act = { subject: bill.leaseId, keyId: null, atMs: nowMs };
  const parties = await openShares(tx, sharesOf(charge), bill.currency, nowMs);
  const captures = capturesOf(hold, parties, {
    ...act,
    reason: 'usage of the lease',
    idempotencyKey: `${bill.leaseId}/charge/${n}`,
  });
  const heldMicros = funds.heldMicros + charge.holdMicros;
  const lacking = end === null && bill.holdMicros > heldMicros ? bill.holdMicros - heldMicros : 0n;
  const left = funds.availableMicros + charge.accountMicros;
  const filled = least(lacking, left);
  const owner = (amountMicros: bigint): Posting => ({ account: bill.accountId, amountMicros });
  const borne = await openShares(
    tx,
    [{ kind: 'site' as const, holder: '', name: 'uncollected', amountMicros: charge.uncollectedMicros }].filter(isSome),
    bill.currency,
    nowMs,
  );
  // Beyond what is held the account and the site pay through the hold, so that there is one account from which a lease is paid.
  const beyond = [owner(charge.accountMicros), ...borne].filter(isSome);
  const move = (kind: 'hold' | 'release', name: string, reason: string, from: Posting[]): NewTransfer[] => {
    const postings = [...from, { account: hold, amountMicros: -sumOf(from) }];
    return from.length === 0 ? [] : [{ ...act, kind, reason, idempotencyKey: `${bill.leaseId}/${name}/${n}`, postings }];
  };
  const funding = move('hold', 'beyond', 'usage beyond what was held', beyond);
  await postTransfers(tx, [
    ...(sumOf(beyond) < 0n ? [...funding, ...captures] : [...captures, ...funding]),
    ...(end === null
      ? move('hold', 'hold', 'held for the next hour', [owner(-filled)].filter(isSome))
      : move('release', 'release', 'the lease has ended', [owner(heldMicros)].filter(isSome))),
  ]);
  if (end !== null) await tx.account.update({ where: { id: hold }, data: { closedAt: new Date(nowMs) } });
  await noteSpending(tx, bill, -(charge.holdMicros + charge.accountMicros), nowMs);
  const uncollectedMicros = bill.uncollectedMicros - charge.uncollectedMicros;
  const paid = addTo(bill.paid, charge);
  await tx.bill.update({
    where: { leaseId: bill.leaseId },
    data: {
      chargedMicros: paid.buyerMicros,
      uncollectedMicros,
      paid: storedPaid(paid),
      charges: n,
      chargedAt: new Date(nowMs),
      ...(end !== null && { endedAt: new Date(nowMs), dueAt: null }),
    },
  });
  return {
    chargedMicros: paid.buyerMicros,
    uncollectedMicros,
    heldMicros: end === null ? heldMicros + filled : 0n,
    shortMicros: lacking - filled,
  };
}
