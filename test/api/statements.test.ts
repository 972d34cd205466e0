import { afterAll, beforeAll, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Budget, Statement } from '../../api/schemas/money/statements.ts';
import { type ProblemBody, type RunningApi, startApi } from './running-api.ts';

type StatementBody = z.output<typeof Statement> & ProblemBody;
type BudgetBody = z.output<typeof Budget> & ProblemBody;

let api: RunningApi;
const month = new Date().toISOString().slice(0, 7);
const evil = '=1+2,"<script>alert(1)</script>"';
beforeAll(async () => {
  api = await startApi();
  const json = { owner: api.alice.ownerId, currency: 'EUR' };
  const { body } = await api.call<{ id: string }>(api.operator, 'POST', '/v1/accounts', { json });
  const adjust = (amountMicros: string, reason: string, key: string) =>
    api.call(api.operator, 'POST', `/v1/accounts/${body.id}/adjustments`, {
      json: { amountMicros, reason },
      headers: { 'Idempotency-Key': key },
    });
  await adjust('250000000', 'invoice 17', 'a');
  await adjust('-1500001', evil, 'b');
});
afterAll(() => api.end());

const of = (party: typeof api.alice, query = '') => api.call<StatementBody>(party, 'GET', `/v1/statements/${month}${query}`);

test('a statement adds up, as JSON, CSV and HTML, and is of its owner', async () => {
  const { body } = await of(api.alice);
  const [euro] = body.currencies;
  expect(body).toMatchObject({ owner: api.alice.ownerId, month, final: false });
  expect(euro).toMatchObject({ currency: 'EUR', openingMicros: '0', closingMicros: '248499999', heldMicros: '0' });
  expect(euro!.lines.map(({ amountMicros }) => Number(amountMicros)).toSorted((a, b) => a - b)).toEqual([
    -1_500_001, 250_000_000,
  ]);
  expect((await of(api.bob)).body.currencies).toEqual([]);
  expect((await of(api.bob, `?owner=${api.alice.ownerId}`)).body.currencies).toEqual([]);
  expect((await of(api.operator, `?owner=${api.alice.ownerId}`)).body).toEqual(body);
  expect((await of(api.operator, '?owner=nobody')).status).toBe(404);

  const csv = await api.fetch(api.alice, 'GET', `/v1/statements/${month}?format=csv`);
  expect(csv.headers.get('content-type')).toBe('text/csv; charset=utf-8');
  const rows = (await csv.text()).trimEnd().split('\r\n');
  expect(rows[0]).toBe('month,owner,currency,line,subject,reason,transfers,from,until,amount');
  expect(rows[1]).toMatch(/,EUR,opening,,,,,,0$/);
  expect(rows.at(-1)).toMatch(/,EUR,closing,,,,,,248\.499999$/);
  const amounts = rows.slice(2, -1).map((row) => Math.round(Number(row.split(',').at(-1)) * 1e6));
  expect(amounts.reduce((a, b) => a + b)).toBe(248_499_999);
  // A spreadsheet computes no text of an operator's or a client's.
  expect(rows.join('\n')).toContain(`"'=1+2,""<script>alert(1)</script>"""`);

  const page = await api.fetch(api.alice, 'GET', `/v1/statements/${month}?format=html`);
  expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
  expect(page.headers.get('content-security-policy')).toContain("default-src 'none'");
  const text = await page.text();
  expect(text).toContain('<td>248.499999</td>');
  expect(text).not.toContain('<script');
  const focus = await api.fetch(api.alice, 'GET', `/v1/statements/${month}?format=focus`);
  expect(focus.headers.get('content-type')).toBe('text/csv; charset=utf-8');
  // Payments are no charges.
  expect((await focus.text()).split('\r\n')).toEqual([expect.stringMatching(/^AvailabilityZone,BilledCost,.*,Tags$/), '']);
  expect((await of(api.operator, '?owner=nobody&format=focus')).status).toBe(404);
  for (const wrong of ['2026-13', '2026-1', 'now', '1999-01', '2026-11-01'])
    expect((await api.call(api.alice, 'GET', `/v1/statements/${wrong}`)).status).toBe(400);
  expect((await api.call<StatementBody>(api.alice, 'GET', '/v1/statements/2020-01')).body).toMatchObject({
    final: true,
    currencies: [],
  });
});

test('a budget is set, seen and removed by its owner', async () => {
  const set = (json: object, currency = 'EUR') => api.call<BudgetBody>(api.alice, 'PUT', `/v1/budgets/${currency}`, { json });
  expect((await set({ monthlyMicros: '5000000' })).body).toMatchObject({
    owner: api.alice.ownerId,
    thresholds: [50, 80, 100],
    spentMicros: '0',
    month,
  });
  expect((await set({ monthlyMicros: '6000000', thresholds: [90, 10] })).body.thresholds).toEqual([10, 90]);
  const list = async (party: typeof api.alice) =>
    (await api.call<{ items: BudgetBody[] }>(party, 'GET', '/v1/budgets')).body.items.map(({ monthlyMicros }) => monthlyMicros);
  expect([await list(api.alice), await list(api.bob), await list(api.operator)]).toEqual([['6000000'], [], ['6000000']]);
  for (const wrong of [{}, { monthlyMicros: '0' }, { monthlyMicros: '-5' }, { monthlyMicros: '9'.repeat(20) }])
    expect((await set(wrong)).status).toBe(400);
  for (const thresholds of [[], [0], [50, 50], Array.from({ length: 11 }, (_, n) => n + 1)])
    expect((await set({ monthlyMicros: '5', thresholds })).status).toBe(400);
  expect((await set({ monthlyMicros: '5' }, 'euro')).status).toBe(400);
  expect((await api.call(api.bob, 'DELETE', '/v1/budgets/EUR')).status).toBe(404);
  expect((await api.call(api.alice, 'DELETE', '/v1/budgets/EUR')).status).toBe(204);
});

test('usage is read from a cursor, as lines and as a batch of CloudEvents, by its owner', async () => {
  const data = {
    vm: 'vm_1',
    owner: api.alice.ownerId,
    task: null,
    from: '2026-11-01T00:00:00.000Z',
    until: '2026-11-01T01:00:00.000Z',
    usage: ['north', 'south'].map((provider) => ({ provider, vcpuSeconds: 1800, memoryMiBSeconds: 5, diskMiBSeconds: 7 })),
  };
  const type = 'berth.vm.usageRecorded';
  const row = { id: 'vm_1/recorded', type, subject: 'vm_1', ownerId: api.alice.ownerId, time: new Date(data.until), data };
  await api.ledger.event.create({ data: row });
  const read = async (party: typeof api.alice, query = '') =>
    (
      await api.call<{ items: { id: string; provider: string }[]; next: string; more: boolean }>(
        party,
        'GET',
        `/v1/usage${query}`,
      )
    ).body;
  const page = await read(api.alice, '?limit=1');
  expect(page.items.map(({ id, provider }) => [id, provider])).toEqual([
    ['vm_1/recorded/north', 'north'],
    ['vm_1/recorded/south', 'south'],
  ]);
  expect(page.more).toBe(true);
  expect((await read(api.alice, `?after=${page.next}`)).items).toEqual([]);
  expect((await read(api.bob)).items).toEqual([]);
  expect((await read(api.operator)).items).toEqual(page.items);
  const batch = await api.fetch(api.alice, 'GET', '/v1/usage?format=cloudevents');
  expect(batch.headers.get('content-type')).toBe('application/cloudevents-batch+json');
  expect(batch.headers.get('link')).toMatch(/^<\/v1\/usage\?after=\d+&limit=500&format=cloudevents>; rel="next"$/);
  expect(await batch.json()).toMatchObject(
    ['north', 'south'].map((provider) => ({
      specversion: '1.0',
      type: 'berth.usage.vm',
      subject: api.alice.ownerId,
      time: data.until,
      data: { vm: 'vm_1', provider, vcpuSeconds: 1800, memoryMiBSeconds: 5, diskMiBSeconds: 7 },
    })),
  );
  for (const wrong of ['?limit=0', '?limit=1001', '?after=x', '?format=csv'])
    expect((await api.call(api.alice, 'GET', `/v1/usage${wrong}`)).status).toBe(400);
});
