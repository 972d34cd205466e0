import { Prisma } from '../../generated/prisma/client.ts';
import { type AccountKind, maxPostings } from '../../model/books/money.ts';
import type { EventType } from '../../model/events.ts';
import { type AccountId, newId } from '../../model/ids.ts';
import { billOf } from '../../model/money/bill.ts';
import { type Charge, chargeOf, type PaidShares } from '../../model/money/charge.ts';
import { costByProvider, type MeteredInterval } from '../../model/money/cost.ts';
import { least } from '../../model/money/exact.ts';
import { monthOf } from '../../model/money/statement.ts';
import type { AccountRef } from '../books/accounts.ts';
import { holdAccount } from '../books/holds.ts';
import { type AccountPlace, type NewTransfer, type Posting, transferRows } from '../books/post-transfers.ts';
import { eventInsert, type NewEvent } from '../events/write-event.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { type BillRow, storedPaid } from './bill-row.ts';
import { type SpentBudget, tellThresholds } from './budgets.ts';

interface ChargeRequest {
  /** All usage of the lease until now. */
  intervals: readonly MeteredInterval[];
  /** The lease has ended: what is left of the hold is given back. `broken`: by the fault of the site, which had promised it. */
  end: { broken: boolean } | null;
  nowMs: number;
  /** What is told of the charge, in the statement that makes it. */
  event?: (charged: ChargedBill) => NewEvent<EventType>;
}

export interface ChargedBill {
  chargedMicros: bigint;
  uncollectedMicros: bigint;
  heldMicros: bigint;
  /** What the hold lacks of what it should have. */
  shortMicros: bigint;
}

/** Locks the owner's account: what it has above its limit stays so to the commit. */
async function lockAvailable(tx: Transaction, { accountId }: BillRow): Promise<bigint> {
  const rows = await tx.$queryRaw<{ available: bigint }[]>`
    SELECT balance - "lowerLimit" AS available FROM "Account" WHERE id = ${accountId} FOR NO KEY UPDATE`;
  return rows[0]!.available;
}

/** The account of a posting: the owner's by its id, others by their places in a list. */
type Named = AccountId | AccountPlace;

/** The accounts of a charge by their places; the hold is the first. */
class Places {
  readonly refs: AccountRef[] = [];
  readonly hold: AccountPlace;
  private readonly currency: string;

  constructor({ ownerId, leaseId, currency }: BillRow) {
    this.currency = currency;
    this.hold = this.add(holdAccount({ ownerId, subject: leaseId, currency }));
  }

  private add(ref: AccountRef): AccountPlace {
    return this.refs.push(ref) - 1;
  }

  /** Of a party that has no lower limit. */
  posting(kind: AccountKind, holder: string, name: string, amountMicros: bigint): Posting<Named> {
    return { account: this.add({ kind, ownerId: null, holder, name, currency: this.currency }), amountMicros };
  }

  /** As `berth_open_accounts` takes them: with ids of those that are not there yet. */
  rows() {
    return this.refs.map((ref) => ({ ...ref, id: newId('account'), limit: ref.kind === 'hold' ? 0 : null }));
  }
}

const isSome = ({ amountMicros }: { amountMicros: bigint }): boolean => amountMicros !== 0n;

/** What the parties of a charge get, in the order of the amounts: what comes back from one is there for the next. */
const partiesOf = (places: Places, { taxMicros, siteMicros, providerMicros }: Charge): Posting<Named>[] =>
  [
    { kind: 'tax' as const, holder: '', name: '', amountMicros: taxMicros },
    { kind: 'site' as const, holder: '', name: 'fees', amountMicros: siteMicros },
    ...[...providerMicros].map(([holder, amountMicros]) => ({ kind: 'provider' as const, holder, name: '', amountMicros })),
  ]
    .filter(isSome)
    .sort((a, b) => (a.amountMicros < b.amountMicros ? -1 : 1))
    .map(({ kind, holder, name, amountMicros }) => places.posting(kind, holder, name, amountMicros));

const sumOf = (postings: readonly Posting<Named>[]): bigint => postings.reduce((sum, { amountMicros }) => sum + amountMicros, 0n);

/** What the hold pays to the parties, in as many transfers as they need. */
function capturesOf(
  hold: AccountPlace,
  parties: readonly Posting<Named>[],
  act: Omit<NewTransfer, 'postings' | 'kind'>,
): NewTransfer<Named>[] {
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
 * caller has locked the bill; the owner's account is locked from here on, so it is the last of its transaction. All of a charge is
 * computed anew from the usage and compared with what was charged: so however often it is charged, its end has the exact sum.
 */
export async function chargeBill(tx: Transaction, bill: BillRow, request: ChargeRequest): Promise<ChargedBill> {
  const { intervals, end, nowMs } = request;
  const shares = billOf(bill.terms, costByProvider(bill.terms, intervals), {
    totalMicros: bill.totalMicros,
    broken: end?.broken ?? false,
  });
  // At the end most holds have more than is due: then the account that many leases pay from is locked by the transfers alone.
  const asksAccount = end === null || shares.buyerMicros - bill.paid.buyerMicros > bill.heldMicros;
  const availableMicros = asksAccount ? await lockAvailable(tx, bill) : 0n;
  const { heldMicros, uncollectedMicros } = bill;
  const charge = chargeOf(shares, bill.paid, { heldMicros, availableMicros, uncollectedMicros });
  const leftMicros = heldMicros + charge.holdMicros;
  const lacking = end === null && bill.holdMicros > leftMicros ? bill.holdMicros - leftMicros : 0n;
  const filled = least(lacking, availableMicros + charge.accountMicros);
  const charged = {
    chargedMicros: bill.paid.buyerMicros - charge.holdMicros - charge.accountMicros - charge.uncollectedMicros,
    uncollectedMicros: uncollectedMicros - charge.uncollectedMicros,
    heldMicros: end === null ? leftMicros + filled : 0n,
    shortMicros: lacking - filled,
  };
  const places = new Places(bill);
  const givenMicros = end === null ? -filled : leftMicros;
  const transfers = transfersOf(places, bill, { charge, ended: end !== null, givenMicros, nowMs });
  await writeCharge(tx, bill, { charge, charged, places, transfers, request });
  return charged;
}

interface PlannedCharge {
  charge: Charge;
  ended: boolean;
  /** What the owner's account gets from the hold after the charge; below zero it fills the hold. */
  givenMicros: bigint;
  nowMs: number;
}

function transfersOf(places: Places, bill: BillRow, { charge, ended, givenMicros, nowMs }: PlannedCharge): NewTransfer<Named>[] {
  const { leaseId, accountId } = bill;
  const n = bill.charges + 1;
  const act = { subject: leaseId, keyId: null, atMs: nowMs };
  const usage = { ...act, reason: 'usage of the lease', idempotencyKey: `${leaseId}/charge/${n}` };
  const captures = capturesOf(places.hold, partiesOf(places, charge), usage);
  const owner = (amountMicros: bigint): Posting<Named> => ({ account: accountId, amountMicros });
  // Beyond what is held the account and the site pay through the hold, so that there is one account from which a lease is paid.
  const beyond = [
    owner(charge.accountMicros),
    ...(charge.uncollectedMicros === 0n ? [] : [places.posting('site', '', 'uncollected', charge.uncollectedMicros)]),
  ].filter(isSome);
  const move = (kind: 'hold' | 'release', name: string, reason: string, from: Posting<Named>[]): NewTransfer<Named>[] => {
    const postings = [...from, { account: places.hold, amountMicros: -sumOf(from) }];
    return from.length === 0 ? [] : [{ ...act, kind, reason, idempotencyKey: `${leaseId}/${name}/${n}`, postings }];
  };
  const funding = move('hold', 'beyond', 'usage beyond what was held', beyond);
  const given = [owner(givenMicros)].filter(isSome);
  return [
    ...(sumOf(beyond) < 0n ? [...funding, ...captures] : [...captures, ...funding]),
    ...(ended ? move('release', 'release', 'the lease has ended', given) : move('hold', 'hold', 'held for the next hour', given)),
  ];
}

interface WrittenCharge {
  charge: Charge;
  charged: ChargedBill;
  places: Places;
  transfers: readonly NewTransfer<Named>[];
  request: ChargeRequest;
}

/** One statement, in which the account that many leases pay from is locked: how long that takes bounds how many end in a second. */
async function writeCharge(tx: Transaction, bill: BillRow, written: WrittenCharge): Promise<void> {
  const { charge, charged, places, transfers, request } = written;
  const { leaseId, ownerId, currency } = bill;
  const { nowMs, end, event } = request;
  const row = {
    lease: leaseId,
    owner: ownerId,
    currency,
    charges: bill.charges + 1,
    charged: String(charged.chargedMicros),
    uncollected: String(charged.uncollectedMicros),
    paid: storedPaid(addTo(bill.paid, charge)),
    at: isoOf(nowMs),
    ended: end !== null,
    spent: String(-(charge.holdMicros + charge.accountMicros)),
    month: monthOf(nowMs),
  };
  const withEvent = event === undefined ? Prisma.empty : Prisma.sql`WITH event AS (${eventInsert(event(charged))})`;
  const json = (value: unknown) => Prisma.sql`${JSON.stringify(value)}::jsonb`;
  const budgets = await tx.$queryRaw<SpentBudget[]>`${withEvent}
    SELECT "spentMicros", "monthlyMicros", thresholds, "toldPercent", alerts
    FROM berth_charge_bill(${json(row)}, ${json(places.rows())}, ${json(transferRows(transfers))})`;
  await tellThresholds(tx, bill, budgets[0], nowMs);
}
