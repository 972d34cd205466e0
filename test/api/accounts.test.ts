import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Account, Adjustment, BooksProof, Entry } from '../../api/schemas/money/accounts.ts';
import { openAccount, siteAccount } from '../../ledger/books/accounts.ts';
import { placeHold, releaseHold } from '../../ledger/books/holds.ts';
import { readLastProof } from '../../ledger/books/proof.ts';
import type { AccountId } from '../../model/ids.ts';
import { keepBooks } from '../../workers/books/keep-books.ts';
import { type Page, type Party, type ProblemBody, type RunningApi, startApi } from './running-api.ts';

type AccountBody = z.output<typeof Account>;
type AdjustmentBody = z.output<typeof Adjustment> & ProblemBody;

let api: RunningApi;
let account: AccountBody;
let keys = 0;
const nextKey = (): string => {
  keys += 1;
  return `key-${keys}`;
};
beforeAll(async () => {
  api = await startApi();
  account = (await open(api.alice)).body;
});
afterAll(() => api.end());

const open = (party: Party, more: object = {}, by = api.operator) =>
  api.call<AccountBody & ProblemBody>(by, 'POST', '/v1/accounts', { json: { owner: party.ownerId, currency: 'EUR', ...more } });
const adjust = (id: string, json: object, key: string | null = nextKey(), by = api.operator) =>
  api.call<AdjustmentBody>(by, 'POST', `/v1/accounts/${id}/adjustments`, {
    json,
    headers: key === null ? {} : { 'Idempotency-Key': key },
  });
const accounts = async (party: Party, query = '') =>
  (await api.call<Page<AccountBody>>(party, 'GET', `/v1/accounts${query}`)).body.items;
const entries = async (party: Party, id: string, query = '') =>
  (await api.call<Page<z.output<typeof Entry>>>(party, 'GET', `/v1/accounts/${id}/entries${query}`)).body;

describe('accounts', () => {
  test('are opened by operators, once for each owner and currency', async () => {
    expect(account).toMatchObject({ kind: 'owner', owner: api.alice.ownerId, balanceMicros: '0', lowerLimitMicros: '0' });
    expect((await open(api.alice)).body.code).toBe('conflict');
    expect((await open({ ...api.alice, ownerId: 'owner_none' })).status).toBe(404);
    expect((await open(api.bob, {}, api.alice)).status).toBe(403);
  });

  test.each([
    { currency: 'euro' },
    { lowerLimitMicros: '1' },
    { lowerLimitMicros: '-1000000000000000001' },
    { lowerLimitMicros: -5 },
    { owner: '' },
  ])('with %j are refused', async (more) => {
    expect((await open(api.bob, more)).status).toBe(400);
  });

  test("are seen by their owner with its holds, and by operators with the site's", async () => {
    await adjust(account.id, { amountMicros: '100', reason: 'paid' });
    const hold = { ownerId: api.alice.ownerId, subject: 'lease_1', currency: 'EUR' };
    const act = { reason: 'a lease', keyId: null, atMs: Date.now() };
    await api.ledger.$transaction((tx) =>
      placeHold(tx, hold, { ...act, idempotencyKey: 'lease_1/hold', from: account.id as AccountId, amountMicros: 40n }),
    );
    expect((await accounts(api.alice)).map(({ kind, name, balanceMicros }) => [kind, name, balanceMicros])).toEqual([
      ['hold', 'lease_1', '40'],
      ['owner', '', '60'],
    ]);
    expect(await accounts(api.bob)).toEqual([]);
    expect(await accounts(api.alice, `?owner=${api.bob.ownerId}`)).toHaveLength(2);
    expect(await accounts(api.operator, `?owner=${api.bob.ownerId}`)).toEqual([]);
    expect((await accounts(api.operator, '?kind=site')).map(({ name, balanceMicros }) => [name, balanceMicros])).toEqual([
      ['adjustments', '-100'],
    ]);
    await api.ledger.$transaction((tx) =>
      releaseHold(tx, hold, { ...act, idempotencyKey: 'lease_1/end', rest: account.id as AccountId }),
    );
    expect((await accounts(api.alice, '?kind=hold'))[0]?.closedAt).not.toBeNull();
  });

  test('list their entries in pages, newest first', async () => {
    const { id } = (await open(await api.addOwner('pages', 'client'))).body;
    for (let n = 1; n <= 5; n += 1) await adjust(id, { amountMicros: String(n), reason: `number ${n}` });
    const first = await entries(api.operator, id, '?limit=2');
    const second = await entries(api.operator, id, `?limit=2&cursor=${first.next}`);
    const last = await entries(api.operator, id, `?limit=2&cursor=${second.next}`);
    const all = [first, second, last].flatMap(({ items }) => items);
    expect(all.map(({ amountMicros, balanceMicros }) => [amountMicros, balanceMicros])).toEqual([
      ['5', '15'],
      ['4', '10'],
      ['3', '6'],
      ['2', '3'],
      ['1', '1'],
    ]);
    expect(last.next).toBeNull();
    for (const cursor of ['x', '0', '-1', '9223372036854775808'])
      expect((await api.call(api.operator, 'GET', `/v1/accounts/${id}/entries?cursor=${cursor}`)).status).toBe(400);
  });
});

describe('an adjustment', () => {
  let id: string;
  let party: Party;
  beforeAll(async () => {
    party = await api.addOwner('adjusted', 'client');
    id = (await open(party)).body.id;
  });

  test('is posted once for each key, also when the answer is remembered no more', async () => {
    const order = { amountMicros: '250', reason: 'an invoice was paid' };
    const answers = await Promise.all(Array.from({ length: 10 }, () => adjust(id, order, 'once')));
    expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
    expect(answers[0]!.body).toMatchObject({ account: id, amountMicros: '250', balanceMicros: '250', reason: order.reason });
    await api.ledger.idempotency.deleteMany();
    expect((await adjust(id, order, 'once')).text).toBe(answers[0]!.text);
    await api.ledger.idempotency.deleteMany();
    expect((await adjust(id, { ...order, amountMicros: '251' }, 'once')).body.code).toBe('idempotency-mismatch');
    expect((await entries(party, id)).items).toHaveLength(1);
  });

  test('is an event of its owner with the key’s id, and is logged', async () => {
    const { body } = await adjust(id, { amountMicros: '-50', reason: 'a refund went wrong' });
    const events = await api.call<{ items: { subject: string; data: object }[] }>(
      party,
      'GET',
      '/v1/events?type=berth.account.adjusted',
    );
    expect(events.body.items.map(({ subject }) => subject)).toEqual([id, id]);
    expect(events.body.items[1]?.data).toEqual({
      account: id,
      owner: party.ownerId,
      currency: 'EUR',
      transfer: body.transfer,
      amountMicros: '-50',
      balanceMicros: '200',
      reason: 'a refund went wrong',
      key: api.operator.keyId,
      at: body.at,
    });
    const line = api.logged
      .map((one) => JSON.parse(one) as Record<string, unknown>)
      .find(({ reason }) => reason === 'a refund went wrong');
    expect(line).toMatchObject({ account: id, keyId: api.operator.keyId, amountMicros: '-50' });
  });

  test('is refused without a key, below the limit, beyond the bounds, and of a closed or an unknown account', async () => {
    const without = await adjust(id, { amountMicros: '1', reason: 'x' }, null);
    expect([without.status, without.body.errors[0]?.pointer]).toEqual([400, 'header.Idempotency-Key']);
    const below = await adjust(id, { amountMicros: '-201', reason: 'x' });
    expect([below.status, below.body.code]).toEqual([402, 'insufficient-funds']);
    expect((await adjust('account_none', { amountMicros: '1', reason: 'x' })).status).toBe(404);
    const [hold] = await accounts(api.alice, '?kind=hold');
    expect((await adjust(hold!.id, { amountMicros: '1', reason: 'x' })).body.code).toBe('conflict');
    for (const amountMicros of ['0', '-0', '1.5', '1e3', '', '1000000000000001', '-1000000000000001', '9'.repeat(40)])
      expect([amountMicros, (await adjust(id, { amountMicros, reason: 'x' })).status]).toEqual([amountMicros, 400]);
    expect((await adjust(id, { amountMicros: '1', reason: '' })).status).toBe(400);
    expect((await entries(party, id)).items).toHaveLength(2);
  });
});

describe('the books', () => {
  const books = async () => (await api.call<z.output<typeof BooksProof>>(api.operator, 'GET', '/v1/books')).body;
  const metric = async (name: string) => {
    const text = await (await fetch(new URL('/metrics', api.operatorsBase))).text();
    return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
  };

  test('are proven once a day, and say what is wrong in the answer, the metric and the log', async () => {
    const lines: string[] = [];
    const log = {
      info: (_: object, text: string) => lines.push(text),
      error: (_: object, text: string) => lines.push(text),
    } as never;
    const keep = (hours: number) => keepBooks({ ledger: api.ledger, log, clock: () => Date.now() + hours * 3_600_000 });
    expect(await metric('berth_books_proof_age_seconds')).toBeNaN();
    await keep(0);
    await keep(23);
    expect(lines).toEqual(['the books were proven']);
    expect([await metric('berth_books_problems'), (await books()).problems]).toEqual([0, 0]);
    const { id } = await api.ledger.$transaction((tx) =>
      openAccount(tx, siteAccount('damaged', 'EUR'), { lowerLimitMicros: null, nowMs: Date.now() }),
    );
    // As a repair by hand may do: no trigger is asked.
    await api.ledger.$transaction([
      api.ledger.$executeRaw`SET LOCAL session_replication_role = replica`,
      api.ledger.$executeRaw`UPDATE "Account" SET balance = 7 WHERE id = ${id}`,
    ]);
    await keep(25);
    expect(lines.at(-1)).toBe('the books are wrong; see docs/books.md');
    expect(await metric('berth_books_problems')).toBe(2);
    expect((await readLastProof(api.ledger))?.found.map((one) => `${one.kind} ${one.id}`)).toEqual([`balance ${id}`, 'sum EUR']);
    const { problems, found } = await books();
    expect([problems, found.map(({ kind }) => kind)]).toEqual([2, ['balance', 'sum']]);
  });
});
