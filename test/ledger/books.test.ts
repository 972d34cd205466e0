import { beforeAll, describe, expect, it } from 'vitest';
import { type AccountRecord, findAccount, openAccount, ownerAccount, siteAccount } from '../../ledger/books/accounts.ts';
import { captureHold, placeHold, releaseHold } from '../../ledger/books/holds.ts';
import { type NewTransfer, postTransfer, postTransfers } from '../../ledger/books/post-transfers.ts';
import { readEntries } from '../../ledger/books/read-entries.ts';
import { sumAccounts } from '../../ledger/books/sum-accounts.ts';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { inTransaction, requestLimits, type Transaction } from '../../ledger/transaction.ts';
import { maxAmountMicros, maxBalanceMicros } from '../../model/books/money.ts';
import type { AccountId } from '../../model/ids.ts';
import { addOwner, failure, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
const nowMs = Date.parse('2026-11-29T12:00:00Z');
let owner: string;
let site: AccountRecord;
let named = 0;

const within = <T>(work: (tx: Transaction) => Promise<T>): Promise<T> => inTransaction(fixture.ledger, work, requestLimits);
const fresh = (what: string) => {
  named += 1;
  return `${what}-${named}`;
};

/** An account of an owner, with this much in it. */
async function funded(amountMicros: bigint, lowerLimitMicros = 0n, currency = 'EUR'): Promise<AccountRecord> {
  const id = await addOwner(fixture, fresh('owner'));
  const account = await within((tx) => openAccount(tx, ownerAccount(id, currency), { lowerLimitMicros, nowMs }));
  if (amountMicros !== 0n)
    await post([
      [site.id, -amountMicros],
      [account.id, amountMicros],
    ]);
  return account;
}

const transfer = (postings: [AccountId, bigint][], more: Partial<NewTransfer> = {}): NewTransfer => ({
  kind: 'adjustment',
  reason: 'a test',
  subject: 'task_x',
  keyId: null,
  idempotencyKey: fresh('key'),
  atMs: nowMs,
  postings: postings.map(([account, amountMicros]) => ({ account, amountMicros })),
  ...more,
});

const post = (postings: [AccountId, bigint][], more: Partial<NewTransfer> = {}) =>
  within((tx) => postTransfer(tx, transfer(postings, more)));
const balance = async (id: string) => (await findAccount(fixture.ledger, null, id)).balanceMicros;
const codeOf = async (promise: Promise<unknown>) => (await failure(promise)).code;

beforeAll(async () => {
  owner = await addOwner(fixture);
  site = await within((tx) => openAccount(tx, siteAccount('adjustments', 'EUR'), { lowerLimitMicros: null, nowMs }));
});

describe('a transfer', () => {
  it('moves money, and each entry says what the account had after it', async () => {
    const [buyer, seller] = [await funded(100n), await funded(0n)];
    await post(
      [
        [buyer.id, -70n],
        [seller.id, 60n],
        [site.id, 10n],
      ],
      { reason: 'usage', subject: 'task_1' },
    );
    expect([await balance(buyer.id), await balance(seller.id)]).toEqual([30n, 60n]);
    const [last, first] = await readEntries(fixture.ledger, buyer.id, { limit: 1, before: null });
    expect(last).toMatchObject({
      amountMicros: -70n,
      balanceMicros: 30n,
      reason: 'usage',
      subject: 'task_1',
      kind: 'adjustment',
    });
    expect(first).toMatchObject({ amountMicros: 100n, balanceMicros: 100n });
    expect(await readEntries(fixture.ledger, buyer.id, { limit: 1, before: last!.seq })).toMatchObject([{ seq: first!.seq }]);
  });

  it('is posted once for each key, however often it is repeated and however many do so at once', async () => {
    const [from, to] = [await funded(1000n), await funded(0n)];
    const same = transfer([
      [from.id, -10n],
      [to.id, 10n],
    ]);
    const posted = await Promise.all(Array.from({ length: 20 }, () => within((tx) => postTransfer(tx, same))));
    expect(new Set(posted.map(({ id }) => id)).size).toBe(1);
    expect(posted.filter(({ replayed }) => !replayed)).toHaveLength(1);
    expect(await balance(to.id)).toBe(10n);
  });

  it.each([
    [
      'amounts',
      (one: NewTransfer) => ({ ...one, postings: one.postings.map((p) => ({ ...p, amountMicros: p.amountMicros * 2n })) }),
    ],
    ['subject', (one: NewTransfer) => ({ ...one, subject: 'task_other' })],
    ['kind', (one: NewTransfer) => ({ ...one, kind: 'capture' as const })],
  ])('is refused where its key has named one with other %s', async (_, changed) => {
    const [from, to] = [await funded(1000n), await funded(0n)];
    const first = transfer([
      [from.id, -10n],
      [to.id, 10n],
    ]);
    await within((tx) => postTransfer(tx, first));
    expect(await codeOf(within((tx) => postTransfer(tx, changed(first))))).toBe('idempotency-mismatch');
    expect(await balance(to.id)).toBe(10n);
  });

  it('is in the books with the others of its call, or none of them is', async () => {
    const [from, to] = [await funded(15n), await funded(0n)];
    const ten = () =>
      transfer([
        [from.id, -10n],
        [to.id, 10n],
      ]);
    expect(await codeOf(within((tx) => postTransfers(tx, [ten(), ten()])))).toBe('insufficient-funds');
    expect([await balance(from.id), await balance(to.id)]).toEqual([15n, 0n]);
    const five = () =>
      transfer([
        [from.id, -5n],
        [to.id, 5n],
      ]);
    const posted = await within((tx) => postTransfers(tx, [five(), five(), five()]));
    expect(posted.map(({ replayed }) => replayed)).toEqual([false, false, false]);
    expect(await balance(from.id)).toBe(0n);
    expect((await readEntries(fixture.ledger, to.id, { limit: 9, before: null })).map((e) => e.balanceMicros)).toEqual([
      15n,
      10n,
      5n,
    ]);
  });

  it('is refused by what it would take below a limit, above or below zero', async () => {
    const [poor, invoiced] = [await funded(5n), await funded(0n, -100n)];
    expect(
      await codeOf(
        post([
          [poor.id, -6n],
          [site.id, 6n],
        ]),
      ),
    ).toBe('insufficient-funds');
    await post([
      [invoiced.id, -100n],
      [site.id, 100n],
    ]);
    expect(
      await codeOf(
        post([
          [invoiced.id, -1n],
          [site.id, 1n],
        ]),
      ),
    ).toBe('insufficient-funds');
    expect([await balance(poor.id), await balance(invoiced.id)]).toEqual([5n, -100n]);
  });

  it('has bounds: an amount of a thousand million, a balance of 10^18 micro-units', async () => {
    const rich = await funded(maxAmountMicros);
    expect(
      await codeOf(
        post([
          [rich.id, maxAmountMicros + 1n],
          [site.id, -maxAmountMicros - 1n],
        ]),
      ),
    ).toBe('amount-out-of-bounds');
    const largest = () =>
      transfer([
        [rich.id, maxAmountMicros],
        [site.id, -maxAmountMicros],
      ]);
    for (let n = 1; n < 1000; n += 111) await within((tx) => postTransfers(tx, Array.from({ length: 111 }, largest)));
    expect(await balance(rich.id)).toBe(maxBalanceMicros);
    expect(
      await codeOf(
        post([
          [rich.id, 1n],
          [site.id, -1n],
        ]),
      ),
    ).toBe('amount-out-of-bounds');
  });

  it('of several currencies sums to zero in each', async () => {
    const dollars = await within((tx) => openAccount(tx, siteAccount('adjustments', 'USD'), { lowerLimitMicros: null, nowMs }));
    const [euro, dollar] = [await funded(0n), await funded(0n, 0n, 'USD')];
    const wrong = post([
      [euro.id, 10n],
      [dollar.id, 5n],
      [site.id, -5n],
      [dollars.id, -10n],
    ]);
    expect((await failure(wrong)).code).toBe('internal');
    await post([
      [euro.id, 10n],
      [dollar.id, 5n],
      [site.id, -10n],
      [dollars.id, -5n],
    ]);
    expect(await balance(dollar.id)).toBe(5n);
  });

  it.each([
    ['one posting', () => transfer([[site.id, 1n]])],
    [
      'an account twice',
      () =>
        transfer([
          [site.id, 1n],
          [site.id, -1n],
        ]),
    ],
    [
      'a posting of nothing',
      () =>
        transfer([
          [site.id, 0n],
          ['account_x' as AccountId, 0n],
        ]),
    ],
    [
      'a sum',
      () =>
        transfer([
          [site.id, 1n],
          ['account_x' as AccountId, -2n],
        ]),
    ],
  ])('with %s is a bug of its maker', async (_, make) => {
    expect((await failure(within((tx) => postTransfer(tx, make())))).message).toMatch(/^BUG: the transfer key-\d+ /);
  });

  it('needs accounts that are there', async () => {
    expect(
      await codeOf(
        post([
          [site.id, 1n],
          ['account_none' as AccountId, -1n],
        ]),
      ),
    ).toBe('not-found');
  });

  it('waits for its accounts before it takes its key: a transaction that has them can post under the same key', async () => {
    const [from, to] = [await funded(10n), await funded(0n)];
    const same = transfer([
      [from.id, -1n],
      [to.id, 1n],
    ]);
    const waiting = async () => (await fixture.sql('SELECT FROM pg_locks WHERE NOT granted')).length;
    const posted = await within(async (tx) => {
      await tx.$queryRaw`SELECT id FROM "Account" WHERE id = ${from.id} FOR NO KEY UPDATE`;
      const other = within((another) => postTransfer(another, same));
      await expect.poll(waiting).toBeGreaterThan(0);
      const own = await postTransfer(tx, same);
      return { own, other };
    });
    expect([posted.own.replayed, (await posted.other).replayed]).toEqual([false, true]);
    expect(await balance(to.id)).toBe(1n);
  });

  it('of a connection that dies before its commit leaves nothing', async () => {
    const [from, to] = [await funded(10n), await funded(0n)];
    const died = within(async (tx) => {
      await postTransfer(
        tx,
        transfer([
          [from.id, -10n],
          [to.id, 10n],
        ]),
      );
      const [{ pid } = { pid: 0 }] = await tx.$queryRaw<{ pid: number }[]>`SELECT pg_backend_pid() AS pid`;
      await fixture.sql('SELECT pg_terminate_backend($1)', [pid]);
      await tx.$queryRaw`SELECT 1`;
    });
    await expect(died).rejects.toThrow();
    expect([await balance(from.id), await balance(to.id)]).toEqual([10n, 0n]);
  });
});

describe('an account', () => {
  it('is opened once, and keeps to having a limit or none', async () => {
    const ref = ownerAccount(await addOwner(fixture, fresh('owner')), 'EUR');
    const open = () => within((tx) => openAccount(tx, ref, { lowerLimitMicros: 0n, nowMs }));
    const opened = await Promise.all(Array.from({ length: 10 }, open));
    expect(new Set(opened.map(({ id }) => id)).size).toBe(1);
    expect(await codeOf(within((tx) => openAccount(tx, ref, { lowerLimitMicros: null, nowMs })))).toBe('conflict');
  });

  it('without a limit has the same balance before and after it is summed, while others add to it', async () => {
    const fees = await within((tx) => openAccount(tx, siteAccount(fresh('fees'), 'EUR'), { lowerLimitMicros: null, nowMs }));
    const buyers = await Promise.all(Array.from({ length: 8 }, () => funded(100n)));
    let adding = true;
    const summing = (async () => {
      while (adding) await sumAccounts(fixture.ledger, 0);
    })();
    await Promise.all(
      buyers.map(async (buyer) => {
        for (let n = 0; n < 50; n += 1)
          await post([
            [buyer.id, -2n],
            [fees.id, 2n],
          ]);
      }),
    );
    adding = false;
    await summing;
    expect(await balance(fees.id)).toBe(800n);
    await sumAccounts(fixture.ledger, 0);
    expect(await fixture.sql('SELECT balance FROM "Account" WHERE id = $1', [fees.id])).toEqual([{ balance: '800' }]);
    expect(await balance(fees.id)).toBe(800n);
  });
});

describe('a hold', () => {
  const hold = (subject: string) => ({ ownerId: owner, subject, currency: 'EUR' });
  const act = (key: string) => ({ reason: 'a lease', keyId: null, idempotencyKey: key, atMs: nowMs });

  it('is placed, paid out in parts, and given back once', async () => {
    const [buyer, seller] = [await funded(100n), await funded(0n)];
    const lease = hold(fresh('lease'));
    await within((tx) => placeHold(tx, lease, { ...act(`${lease.subject}/1`), from: buyer.id, amountMicros: 60n }));
    expect(await balance(buyer.id)).toBe(40n);
    await within((tx) =>
      captureHold(tx, lease, { ...act(`${lease.subject}/2`), to: [{ account: seller.id, amountMicros: 25n }] }),
    );
    const end = () =>
      within((tx) =>
        releaseHold(tx, lease, { ...act(`${lease.subject}/3`), pay: [{ account: seller.id, amountMicros: 5n }], rest: buyer.id }),
      );
    expect(await end()).toBe(30n);
    expect(await end()).toBe(0n);
    expect([await balance(buyer.id), await balance(seller.id)]).toEqual([70n, 30n]);
    const unused = hold(fresh('lease'));
    expect(await within((tx) => releaseHold(tx, unused, { ...act(`${unused.subject}/end`), rest: buyer.id }))).toBe(0n);
  });

  it('pays no more than was placed, and nothing after its end', async () => {
    const [buyer, seller] = [await funded(100n), await funded(0n)];
    const lease = hold(fresh('lease'));
    const place = (key: string, amountMicros: bigint) =>
      within((tx) => placeHold(tx, lease, { ...act(`${lease.subject}/${key}`), from: buyer.id, amountMicros }));
    const capture = (key: string, amountMicros: bigint) =>
      within((tx) => captureHold(tx, lease, { ...act(`${lease.subject}/${key}`), to: [{ account: seller.id, amountMicros }] }));
    expect(await codeOf(place('a', 101n))).toBe('insufficient-funds');
    await place('b', 50n);
    expect(await codeOf(capture('c', 51n))).toBe('insufficient-funds');
    await within((tx) => releaseHold(tx, lease, { ...act(`${lease.subject}/d`), rest: buyer.id }));
    expect([await codeOf(capture('e', 1n)), await codeOf(place('f', 1n))]).toEqual(['conflict', 'conflict']);
    expect([await balance(buyer.id), await balance(seller.id)]).toEqual([100n, 0n]);
  });

  it('is captured and released at once by many, and nothing is paid twice', async () => {
    const [buyer, seller] = [await funded(1000n), await funded(0n)];
    const lease = hold(fresh('lease'));
    await within((tx) => placeHold(tx, lease, { ...act(`${lease.subject}/placed`), from: buyer.id, amountMicros: 100n }));
    const acts = Array.from({ length: 30 }, (_, n) =>
      n % 6 === 5
        ? within((tx) => releaseHold(tx, lease, { ...act(`${lease.subject}/end`), rest: buyer.id }))
        : within((tx) =>
            captureHold(tx, lease, { ...act(`${lease.subject}/${n}`), to: [{ account: seller.id, amountMicros: 7n }] }),
          ),
    );
    const outcomes = await Promise.allSettled(acts);
    const codes = outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason.code] : []));
    expect(codes.filter((code) => code !== 'conflict' && code !== 'insufficient-funds')).toEqual([]);
    expect((await balance(buyer.id)) + (await balance(seller.id))).toBe(1000n);
  });
});

describe('the books', () => {
  /** Runs statements in one transaction; the error of the first that fails, or of the commit. */
  async function raw(...statements: string[]): Promise<Error & { code?: string; constraint?: string }> {
    const client = await fixture.pool.connect();
    try {
      await client.query('BEGIN');
      return await failure(
        (async () => {
          for (const statement of statements) await client.query(statement);
          await client.query('COMMIT');
        })(),
      );
    } finally {
      await client.query('ROLLBACK');
      client.release();
    }
  }
  const insertTransfer = (id: string, postings = 2) =>
    `INSERT INTO "Transfer" (id, kind, reason, subject, "idempotencyKey", postings) VALUES ('${id}', 'adjustment', '', '', '${id}', ${postings})`;
  const insertEntry = (id: string, account: string, amount: bigint) =>
    `INSERT INTO "Entry" ("transferId", "accountId", currency, amount) VALUES ('${id}', '${account}', 'EUR', ${amount})`;
  let account: AccountRecord;
  let other: AccountRecord;
  let old: string;
  beforeAll(async () => {
    account = await funded(50n);
    other = await funded(50n);
    old = (
      await post([
        [account.id, -1n],
        [site.id, 1n],
      ])
    ).id;
  });

  it('refuse a transfer that does not sum to zero, has no entry, or fewer or more than it says', async () => {
    expect((await raw(insertTransfer('u1'), insertEntry('u1', account.id, 5n), insertEntry('u1', other.id, -4n))).code).toBe(
      'BE005',
    );
    expect((await raw(insertTransfer('u2'))).code).toBe('BE005');
    expect((await raw(insertTransfer('u3'), insertEntry('u3', account.id, 5n))).code).toBe('BE005');
    expect((await raw(insertTransfer('u4', 3), insertEntry('u4', account.id, 5n), insertEntry('u4', other.id, -5n))).code).toBe(
      'BE005',
    );
    expect((await raw(insertTransfer('u5', 1))).constraint).toBe('Transfer_postings');
  });

  it('refuse an entry that is added to an earlier transfer, balanced or not', async () => {
    expect((await raw(insertEntry(old, other.id, 5n))).code).toBe('BE005');
    const third = await funded(50n);
    expect((await raw(insertEntry(old, other.id, 5n), insertEntry(old, third.id, -5n))).code).toBe('BE005');
  });

  it('refuse an entry of another currency than its account: it has the one of the account', async () => {
    const dollar = await funded(0n, 0n, 'USD');
    expect((await raw(insertTransfer('c1'), insertEntry('c1', account.id, -5n), insertEntry('c1', dollar.id, 5n))).code).toBe(
      'BE005',
    );
  });

  it.each([
    ['UPDATE "Entry" SET amount = amount + 1'],
    ['UPDATE "Entry" SET balance = 0'],
    ['DELETE FROM "Entry"'],
    ['TRUNCATE "Entry"'],
    [`UPDATE "Transfer" SET reason = 'another'`],
    ['DELETE FROM "Transfer"'],
    ['TRUNCATE "Transfer", "Entry"'],
  ])('refuse %s', async (statement) => {
    expect((await raw(statement)).code).toBe('BE005');
  });

  it('refuse a balance that its entries do not have', async () => {
    const change = (set: string) => `UPDATE "Account" SET ${set} WHERE id = '${account.id}'`;
    expect((await raw(change('balance = balance + 1'))).code).toBe('BE005');
    expect((await raw(change('"summedTo" = "summedTo" - 1'))).code).toBe('BE005');
    expect((await raw(`UPDATE "Account" SET "summedTo" = 1000000000, balance = 1 WHERE id = '${site.id}'`)).code).toBe('BE005');
    const insert = `INSERT INTO "Account" (id, kind, holder, name, currency, balance) VALUES ('new', 'site', '', 'new', 'EUR', 5)`;
    expect((await raw(insert)).code).toBe('BE005');
  });

  it('refuse a balance below the limit, by the entry and by the row', async () => {
    expect((await raw(insertTransfer('l1'), insertEntry('l1', account.id, -50n))).code).toBe('BE008');
    expect((await raw(`UPDATE "Account" SET "lowerLimit" = 50 WHERE id = '${account.id}'`)).constraint).toBe(
      'Account_lower_limit',
    );
    expect((await raw(`UPDATE "Account" SET balance = -1 WHERE id = '${account.id}'`)).constraint).toBe('Account_lower_limit');
  });

  it.each([
    [`currency = 'USD'`, 'BE005'],
    [`kind = 'provider'`, 'BE005'],
    ['"lowerLimit" = NULL', 'BE005'],
    [`name = 'x'`, 'BE005'],
    ['"closedAt" = now()', 'Account_closed'],
    [`balance = 2000000000000000000`, 'Account_bounds'],
  ])('refuse an account whose %s', async (set, why) => {
    const error = await raw(`UPDATE "Account" SET ${set} WHERE id = '${account.id}'`);
    expect([error.code, error.constraint]).toContain(why);
  });

  it.each([
    [`('a', 'owner', NULL, 'x', '', 'EUR', 0)`, 'Account_holder'],
    [`('a', 'site', NULL, 'x', '', 'EUR', NULL)`, 'Account_holder'],
    [`('a', 'provider', NULL, '', '', 'EUR', NULL)`, 'Account_holder'],
    [`('a', 'tax', NULL, '', '', 'eur', NULL)`, 'Account_currency'],
    [`('a', 'hold', 'OWNER', 'OWNER', 's', 'EUR', NULL)`, 'Account_hold'],
    [`('a', 'hold', 'OWNER', 'OWNER', 's', 'EUR', -5)`, 'Account_hold'],
  ])('refuse the account %s', async (values, constraint) => {
    const insert = `INSERT INTO "Account" (id, kind, "ownerId", holder, name, currency, "lowerLimit") VALUES `;
    expect((await raw(insert + values.replaceAll('OWNER', owner))).constraint).toBe(constraint);
  });

  it('refuse amounts beyond the bounds of a bigint and of their own', async () => {
    for (const amount of [10n ** 15n + 1n, -(10n ** 15n) - 1n, 2n ** 63n - 1n, -(2n ** 63n)])
      expect((await raw(insertTransfer('b1'), insertEntry('b1', account.id, amount))).code).toBe('BE009');
    expect((await raw(insertTransfer('b2'), insertEntry('b2', account.id, 0n))).constraint).toBe('Entry_amount');
  });

  it('are right where money moves by SQL at once, without the function that posts', async () => {
    const [from, to] = [await funded(20n), await funded(0n)].toSorted((a, b) => (a.id < b.id ? -1 : 1)) as [
      AccountRecord,
      AccountRecord,
    ];
    const [sign, before] = from.balanceMicros === 0n && (await balance(from.id)) === 20n ? [-1n, [20n, 0n]] : [1n, [0n, 20n]];
    expect([await balance(from.id), await balance(to.id)]).toEqual(before);
    await Promise.all(
      Array.from({ length: 20 }, async (_, n) => {
        const client = await fixture.pool.connect();
        try {
          const entries = `${insertEntry(`s${n}`, from.id, sign)}; ${insertEntry(`s${n}`, to.id, -sign)}`;
          await client.query(`BEGIN; ${insertTransfer(`s${n}`)}; ${entries}; COMMIT`);
        } finally {
          client.release();
        }
      }),
    );
    expect([await balance(from.id), await balance(to.id)]).toEqual(before.toReversed());
  });

  it('are verified in one snapshot, while money moves', async () => {
    let moving = true;
    const movers = [[account, other] as const, [other, account] as const].map(async ([from, to]) => {
      while (moving)
        await post([
          [from.id, -1n],
          [to.id, 1n],
        ]).catch((error: unknown) => expect(error).toMatchObject({ code: 'insufficient-funds' }));
    });
    for (let n = 0; n < 5; n += 1) expect((await verifyBooks(fixture.ledger)).found).toEqual([]);
    moving = false;
    await Promise.all(movers);
  });

  it('say what is wrong with them, by its id', async () => {
    const [damaged, victim] = [await funded(10n), await funded(10n)];
    const { id } = await post([
      [damaged.id, -3n],
      [victim.id, 3n],
    ]);
    const { id: lost } = await post([
      [damaged.id, -1n],
      [victim.id, 1n],
    ]);
    await fixture.sql('ALTER TABLE "Account" DROP CONSTRAINT "Account_lower_limit", DROP CONSTRAINT "Account_closed"');
    // As if the disk, a repair by hand or a restore had done it: without the constraints.
    const broken = async (statement: string) => {
      const client = await fixture.pool.connect();
      try {
        await client.query(`BEGIN; SET LOCAL session_replication_role = replica; ${statement}; COMMIT`);
      } finally {
        client.release();
      }
      const { problems, found } = await verifyBooks(fixture.ledger);
      expect(problems).toBe(found.length);
      return found.map((one) => `${one.kind} ${one.id}`);
    };
    expect((await verifyBooks(fixture.ledger)).problems).toBe(0);
    const entry = `"transferId" = '${id}' AND "accountId" = '${victim.id}'`;
    expect(await broken(`UPDATE "Entry" SET amount = 4 WHERE ${entry}`)).toEqual([
      `unbalanced ${id}`,
      `balance ${victim.id}`,
      `history ${victim.id}`,
      `history ${victim.id}`,
    ]);
    expect(await broken(`UPDATE "Entry" SET amount = 3, currency = 'USD' WHERE ${entry}`)).toEqual([
      `unbalanced ${id}`,
      `unbalanced ${id}`,
      `currency ${victim.id}`,
    ]);
    expect(
      await broken(
        `UPDATE "Entry" SET currency = 'EUR' WHERE ${entry}; UPDATE "Account" SET balance = -5 WHERE id = '${victim.id}'`,
      ),
    ).toEqual([`balance ${victim.id}`, `limit ${victim.id}`, 'sum EUR']);
    expect(await broken(`UPDATE "Account" SET balance = 14, "closedAt" = now() WHERE id = '${victim.id}'`)).toEqual([
      `closed ${victim.id}`,
    ]);
    expect(
      await broken(
        `UPDATE "Account" SET "closedAt" = NULL WHERE id = '${victim.id}'; DELETE FROM "Transfer" WHERE id = '${lost}'`,
      ),
    ).toEqual([`orphan ${lost}`, `orphan ${lost}`]);
    expect(
      await broken(
        `DELETE FROM "Entry" WHERE "transferId" = '${lost}' AND "accountId" = '${victim.id}'; ${insertTransfer(lost)}`,
      ),
    ).toEqual([`unbalanced ${lost}`, `incomplete ${lost}`, `balance ${victim.id}`]);
  });
});
