import '../seed.ts';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { openAccount, ownerAccount, readAccounts, siteAccount } from '../../ledger/books/accounts.ts';
import { captureHold, placeHold, releaseHold } from '../../ledger/books/holds.ts';
import { postTransfers } from '../../ledger/books/post-transfers.ts';
import { sumAccounts } from '../../ledger/books/sum-accounts.ts';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { inTransaction, requestLimits, type Transaction } from '../../ledger/transaction.ts';
import { BerthError } from '../../model/errors.ts';
import type { AccountId } from '../../model/ids.ts';
import { addOwner, failure, useLedger } from './ledger-fixture.ts';

/** Money that moves on several connections at once, some of which die in the middle. */

const fixture = useLedger();
const nowMs = Date.parse('2026-11-29T12:00:00Z');
const owners = 3;
/** Of which each owner has one, and the site. */
let accounts: AccountId[];
let ownerIds: string[];
let site: AccountId;

const within = <T>(work: (tx: Transaction) => Promise<T>): Promise<T> => inTransaction(fixture.ledger, work, requestLimits);

beforeAll(async () => {
  ownerIds = await Promise.all(Array.from({ length: owners }, (_, n) => addOwner(fixture, `owner-${n}`)));
  const refs = ownerIds.map((id) => ownerAccount(id, 'EUR'));
  const open = (ref: (typeof refs)[number], lowerLimitMicros: bigint | null) =>
    within((tx) => openAccount(tx, ref, { lowerLimitMicros, nowMs }));
  // One owner is invoiced: it may owe.
  accounts = await Promise.all(refs.map(async (ref, n) => (await open(ref, n === 0 ? -500n : 0n)).id));
  site = (await open(siteAccount('fees', 'EUR'), null)).id;
});

/** What one connection does; `dies`: before its commit its connection is ended by the server. */
interface Move {
  act: 'pay' | 'both' | 'place' | 'capture' | 'release';
  from: number;
  to: number;
  amount: number;
  lease: number;
  key: number;
  dies: boolean;
}

const moves = fc.array(
  fc.record<Move>({
    act: fc.constantFrom('pay', 'both', 'place', 'capture', 'release'),
    from: fc.nat(owners - 1),
    to: fc.nat(owners),
    amount: fc.integer({ min: 1, max: 120 }),
    lease: fc.nat(3),
    // Few, so that the same one is used at the same time, by the same move and by others.
    key: fc.nat(30),
    dies: fc.nat(3).map((n) => n === 0),
  }),
  { minLength: 10, maxLength: 40 },
);

/** Refusals that are right: there was too little, the hold was over, or the key has named another transfer. */
const rightly = new Set(['insufficient-funds', 'conflict', 'idempotency-mismatch']);

async function make(round: string, move: Move): Promise<string> {
  const { act, from, lease, dies } = move;
  const amountMicros = BigInt(move.amount);
  const payer = accounts[from]!;
  const payee = move.to === owners || move.to === from ? site : accounts[move.to]!;
  const hold = { ownerId: ownerIds[from]!, subject: `lease-${round}-${lease}`, currency: 'EUR' };
  const common = { reason: 'a test', keyId: null, idempotencyKey: `${round}/${move.key}`, atMs: nowMs };
  const pay = (idempotencyKey: string, a: AccountId, b: AccountId) => ({
    ...common,
    idempotencyKey,
    kind: 'adjustment' as const,
    subject: 'test',
    postings: [
      { account: a, amountMicros: -amountMicros },
      { account: b, amountMicros },
    ],
  });
  const work = async (tx: Transaction): Promise<void> => {
    if (act === 'pay') await postTransfers(tx, [pay(common.idempotencyKey, payer, payee)]);
    // There and back, from both ends: it crosses what others do.
    if (act === 'both')
      await postTransfers(tx, [
        pay(`${common.idempotencyKey}/there`, payer, payee),
        pay(`${common.idempotencyKey}/back`, payee, payer),
      ]);
    if (act === 'place') await placeHold(tx, hold, { ...common, from: payer, amountMicros });
    if (act === 'capture') await captureHold(tx, hold, { ...common, to: [{ account: payee, amountMicros }] });
    if (act === 'release') await releaseHold(tx, hold, { ...common, pay: [{ account: payee, amountMicros }], rest: payer });
    if (!dies) return;
    const [{ pid } = { pid: 0 }] = await tx.$queryRaw<{ pid: number }[]>`SELECT pg_backend_pid() AS pid`;
    await fixture.sql('SELECT pg_terminate_backend($1)', [pid]);
    await tx.$queryRaw`SELECT 1`;
  };
  try {
    await within(work);
    if (dies) throw new Error('BUG: a transaction whose connection was ended has committed');
    return 'done';
  } catch (error) {
    if (error instanceof BerthError && rightly.has(error.code)) return error.code;
    if (dies && !(error instanceof Error && error.message.startsWith('BUG'))) return 'died';
    throw error;
  }
}

const deadlocks = async (): Promise<number> => {
  const rows = await fixture.sql<{ deadlocks: number }>(
    'SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()',
  );
  return rows[0]!.deadlocks;
};

const runs = Number(process.env.BERTH_PROPERTY_RUNS ?? 40);

describe('random money on several connections, of which some die', () => {
  it('always sums to zero, falls below no limit, is posted once a key, and waits in no circle', async () => {
    const outcomes: Record<string, number> = {};
    let round = 0;
    const property = fc.asyncProperty(moves, async (all) => {
      round += 1;
      const name = `r${round}`;
      // Each owner has some, so that more than refusals happens.
      await within((tx) =>
        postTransfers(
          tx,
          accounts.map((account, n) => ({
            kind: 'adjustment',
            reason: 'funds',
            subject: 'test',
            keyId: null,
            idempotencyKey: `${name}/funds/${n}`,
            atMs: nowMs,
            postings: [
              { account: site, amountMicros: -200n },
              { account, amountMicros: 200n },
            ],
          })),
        ),
      );
      const before = await fixture.sql<{ id: string; text: string }>('SELECT id, to_jsonb(t)::text AS text FROM "Transfer" t');
      const entriesBefore = await fixture.sql('SELECT * FROM "Entry" ORDER BY "transferId", "accountId"');
      const acts = all.map((move) => make(name, move));
      acts.push(sumAccounts(fixture.ledger, 0).then(() => 'summed'));
      for (const outcome of await Promise.all(acts)) outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
      expect((await verifyBooks(fixture.ledger)).found).toEqual([]);
      const records = await readAccounts(fixture.ledger, { owner: null }, { limit: 1000, after: null });
      expect(records.reduce((sum, { balanceMicros }) => sum + balanceMicros, 0n)).toBe(0n);
      for (const { lowerLimitMicros, balanceMicros } of records)
        if (lowerLimitMicros !== null) expect(balanceMicros).toBeGreaterThanOrEqual(lowerLimitMicros);
      // What was there is there unchanged.
      const after = await fixture.sql<{ id: string; text: string }>('SELECT id, to_jsonb(t)::text AS text FROM "Transfer" t');
      const texts = new Map(after.map(({ id, text }) => [id, text]));
      expect(before.filter(({ id, text }) => texts.get(id) !== text)).toEqual([]);
      const kept = await fixture.sql(
        'SELECT e.* FROM "Entry" e WHERE "transferId" = ANY($1) ORDER BY "transferId", "accountId"',
        [before.map(({ id }) => id)],
      );
      expect(kept).toEqual(entriesBefore);
    });
    await fc.assert(property, { numRuns: runs, endOnFailure: true });
    expect(await deadlocks()).toBe(0);
    // It was not all refused, and not all died.
    expect(outcomes.done).toBeGreaterThan(runs);
    expect(outcomes.died).toBeGreaterThan(runs);
    expect(outcomes['idempotency-mismatch']).toBeGreaterThan(0);
    expect(outcomes['insufficient-funds']).toBeGreaterThan(0);
    console.info(JSON.stringify(outcomes));
  }, 240_000);

  it('crosses in both directions over many accounts without a deadlock', async () => {
    const before = await deadlocks();
    const ends: Promise<unknown>[] = [];
    for (let n = 0; n < 300; n += 1) {
      const order = n % 2 === 0 ? accounts : accounts.toReversed();
      const amounts = [-2n, 1n, 1n];
      const transfer = {
        kind: 'adjustment' as const,
        reason: 'crossing',
        subject: 'test',
        keyId: null,
        idempotencyKey: `crossing/${n}`,
        atMs: nowMs,
        postings: order.map((account, at) => ({ account, amountMicros: amounts[at]! })),
      };
      ends.push(within((tx) => postTransfers(tx, [transfer])));
    }
    await Promise.all(ends);
    expect(await deadlocks()).toBe(before);
    expect((await verifyBooks(fixture.ledger)).problems).toBe(0);
  });

  it('tells that a transaction that posts with two calls may wait in a circle', async () => {
    // The reason for one call a transaction: PostgreSQL ends one of the two, which leaves nothing.
    const [a, b] = accounts as [AccountId, AccountId];
    const both = Promise.withResolvers<void>();
    let first = 0;
    const twice = (key: string, one: AccountId, other: AccountId) =>
      within(async (tx) => {
        const posting = (account: AccountId) => [
          { account: site, amountMicros: -1n },
          { account, amountMicros: 1n },
        ];
        const common = { kind: 'adjustment' as const, reason: '', subject: 'test', keyId: null, atMs: nowMs };
        await postTransfers(tx, [{ ...common, idempotencyKey: `${key}/1`, postings: posting(one) }]);
        first += 1;
        if (first === 2) both.resolve();
        await both.promise;
        await postTransfers(tx, [{ ...common, idempotencyKey: `${key}/2`, postings: posting(other) }]);
      });
    const outcomes = await Promise.allSettled([twice('x', a, b), twice('y', b, a)]);
    expect(outcomes.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(
      await failure(Promise.reject(outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []))[0])),
    ).toMatchObject({
      name: 'PrismaClientKnownRequestError',
    });
    expect((await verifyBooks(fixture.ledger)).problems).toBe(0);
  });
});
