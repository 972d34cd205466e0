import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Quote } from '../../api/schemas/leases.ts';
import type { Bill, PriceBook } from '../../api/schemas/money/prices.ts';
import { type Page, type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

type QuoteBody = z.output<typeof Quote>;
type BookBody = z.output<typeof PriceBook> & ProblemBody;
type BillBody = z.output<typeof Bill> & ProblemBody;

let api: RunningApi;
let book: BookBody;
const rates = { vcpuHourMicros: '3600', memoryGiBHourMicros: '0', diskGiBHourMicros: '0' };
const task = { image: 'debian-12', command: ['true'], lease: { durationS: 1000 } };

beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('host-a');
});
afterAll(() => api.end());

const add = (json: object, party = api.operator) => api.call<BookBody>(party, 'POST', '/v1/prices', { json });
const quote = async (json: object = { image: 'debian-12', lease: task.lease }) =>
  (await api.call<QuoteBody>(api.alice, 'POST', '/v1/quotes', { json })).body;
const submit = (json: object = {}, party = api.alice) =>
  api.call<TaskBody & ProblemBody>(party, 'POST', '/v1/tasks', { json: { ...task, ...json } });
const bill = (id: string, party = api.alice) => api.call<BillBody>(party, 'GET', `/v1/bills/${id}`);

async function fund(amountMicros: string): Promise<void> {
  const json = { owner: api.alice.ownerId, currency: 'EUR' };
  const { body } = await api.call<{ id: string }>(api.operator, 'POST', '/v1/accounts', { json });
  const headers = { 'Idempotency-Key': 'paid' };
  await api.call(api.operator, 'POST', `/v1/accounts/${body.id}/adjustments`, {
    json: { amountMicros, reason: 'paid' },
    headers,
  });
}

describe('without a price book', () => {
  test('a quote says when and not what it costs, and orders need no account and have no bill', async () => {
    expect((await quote()).price).toBeNull();
    const { status, body } = await submit();
    expect(status).toBe(202);
    expect((await bill(body.id)).status).toBe(404);
    expect((await submit({ quote: 'quote_none' })).body.code).toBe('quote-refused');
  });
});

describe('a price book', () => {
  test.each([
    { terms: { rules: [] } },
    { terms: { rules: [{ ...rates, kind: 'reservation' }] } },
    { terms: { rules: [{ ...rates, vcpuHourMicros: '-1' }] } },
    { terms: { rules: [{ ...rates, vcpuHourMicros: 5 }] } },
    { terms: { rules: [{ ...rates, dayFrom: 5 }, rates] } },
    { terms: { rules: [{ ...rates, dayFrom: 5, dayUntil: 5 }, rates] } },
    { terms: { rules: [rates], feeMillionths: 1_000_001 } },
    { validFrom: '2020-01-01T00:00:00Z' },
    { validUntil: '2020-01-01T00:00:00Z' },
  ])('with %j is refused', async (more) => {
    expect((await add({ currency: 'EUR', terms: { rules: [rates] }, ...more })).status).toBe(400);
  });

  test('is added and ended by operators, and seen by everybody', async () => {
    const order = { currency: 'EUR', terms: { rules: [rates] } };
    expect((await add(order, api.alice)).status).toBe(403);
    book = (await add(order)).body;
    expect(book).toMatchObject({ currency: 'EUR', validUntil: null });
    const { items } = (await api.call<Page<BookBody>>(api.bob, 'GET', '/v1/prices')).body;
    expect(items.map(({ id }) => id)).toEqual([book.id]);
  });
});

describe('with a price book', () => {
  test('an order needs an account that can pay, and is otherwise refused with 402 and leaves nothing', async () => {
    const tasks = await api.ledger.task.count();
    expect((await submit()).status).toBe(402);
    await fund('2500');
    expect((await submit({ lease: { durationS: 7200 }, timeoutS: 60 })).body.code).toBe('insufficient-funds');
    expect(await api.ledger.task.count()).toBe(tasks);
  });

  test('a quote binds: its order is billed by it, also when prices have risen', async () => {
    const { price, startAt } = await quote();
    expect(startAt).not.toBeNull();
    expect(price).toMatchObject({ currency: 'EUR', totalMicros: '1000', holdMicros: '1000' });
    const dear = (await add({ currency: 'EUR', terms: { rules: [{ ...rates, vcpuHourMicros: '36000' }] } })).body;
    expect((await submit()).status).toBe(402);
    const { body } = await submit({ quote: price!.quote });
    expect((await bill(body.id)).body).toMatchObject({
      quote: price!.quote,
      totalMicros: '1000',
      heldMicros: '1000',
      subject: body.id,
    });
    expect((await submit({ quote: price!.quote })).body.code).toBe('quote-refused');
    const ended = await api.call<BookBody>(api.operator, 'DELETE', `/v1/prices/${dear.id}`);
    expect(ended.body.validUntil).not.toBeNull();
    expect((await api.call(api.operator, 'DELETE', '/v1/prices/price_none')).status).toBe(404);
    expect((await quote()).price).toMatchObject({ totalMicros: '1000' });
  });

  test('a repeated order is accepted once, with one hold', async () => {
    const headers = { 'Idempotency-Key': 'once' };
    const post = () => api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json: task, headers });
    const [first, second] = [await post(), await post()];
    expect(second.text).toBe(first.text);
    expect((await bill(first.body.id)).body).toMatchObject({ heldMicros: '1000', quote: null });
  });

  test('bills are of their owners; operators see all', async () => {
    const list = async (party: typeof api.alice) => (await api.call<Page<BillBody>>(party, 'GET', '/v1/bills?limit=1')).body;
    const [newest] = (await list(api.alice)).items;
    expect((await list(api.operator)).items).toEqual([newest]);
    expect((await list(api.bob)).items).toEqual([]);
    expect((await bill(newest!.lease, api.bob)).status).toBe(404);
    expect((await list(api.alice)).next).not.toBeNull();
  });

  test('a lease whose price no posting can hold is refused', async () => {
    const most = { vcpuHourMicros: '1000000000000', memoryGiBHourMicros: '1000000000000', diskGiBHourMicros: '1000000000000' };
    const { id } = (await add({ currency: 'EUR', terms: { rules: [most] } })).body;
    expect((await submit({ lease: { durationS: 2_592_000 } })).body.code).toBe('amount-out-of-bounds');
    await api.call(api.operator, 'DELETE', `/v1/prices/${id}`);
  });

  test('metrics say what is held', async () => {
    const text = await (await fetch(`${api.operatorsBase}/metrics`)).text();
    expect(text).toContain('berth_money_held{currency="EUR",state="paid"} 0.002');
    expect(text).toContain('berth_bills{currency="EUR",state="paid"} 2');
    expect(text).toMatch(/berth_bill_overdue_seconds 0/);
  });
});
