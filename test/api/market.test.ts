import { afterAll, beforeAll, expect, test } from 'vitest';
import type { z } from 'zod';
import type { JoinToken, Offer, Provider } from '../../api/schemas/money/market.ts';
import { type ProblemBody, type RunningApi, startApi } from './running-api.ts';

type OfferBody = z.output<typeof Offer> & ProblemBody;
type ProviderBody = z.output<typeof Provider> & ProblemBody;

let api: RunningApi;
const rates = { vcpuHourMicros: '20000', memoryGiBHourMicros: '5000', diskGiBHourMicros: '0' };

beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('host-a');
});
afterAll(() => api.end());

const give = (name: string, party = api.operator) =>
  api.call<ProviderBody>(party, 'POST', '/v1/providers', { json: { name, owner: api.alice.ownerId } });
const publish = (party: typeof api.alice, more: object = {}) =>
  api.call<OfferBody>(party, 'POST', '/v1/offers', { json: { provider: 'test', currency: 'EUR', rates, ...more } });
const offers = async () => (await api.call<{ items: OfferBody[] }>(api.bob, 'GET', '/v1/offers')).body.items;

test('a provider is given by operators, and its owner alone has tokens and offers of it', async () => {
  expect((await give('test', api.alice)).status).toBe(403);
  expect((await give('No Name')).status).toBe(400);
  expect((await give('test')).body).toMatchObject({ name: 'test', owner: api.alice.ownerId, hosts: 1 });
  expect((await give('test')).body.code).toBe('conflict');
  const list = async (party: typeof api.alice) =>
    (await api.call<{ items: ProviderBody[] }>(party, 'GET', '/v1/providers')).body.items.map(({ name }) => name);
  expect([await list(api.alice), await list(api.bob), await list(api.operator)]).toEqual([['test'], [], ['test']]);

  const token = (party: typeof api.alice) =>
    api.call<z.output<typeof JoinToken> & ProblemBody>(party, 'POST', '/v1/providers/test/tokens', { json: {} });
  expect((await token(api.bob)).status).toBe(404);
  const [one, two] = [await token(api.alice), await token(api.operator)];
  expect(one.body.token).toMatch(/^join_[\w-]{43}$/);
  expect(two.body.token).not.toBe(one.body.token);

  expect((await publish(api.bob)).status).toBe(404);
  expect((await publish(api.alice, { rates: { ...rates, vcpuHourMicros: '-1' } })).status).toBe(400);
  expect((await publish(api.alice, { validUntil: '2020-01-01T00:00:00Z' })).status).toBe(400);
  const { body: offer } = await publish(api.alice);
  expect(await offers()).toMatchObject([{ id: offer.id, provider: 'test', rates, measured: { reliability: null } }]);
});

test('a VM takes an offer within its limit, is billed by it, and is refused without one', async () => {
  const buy = (name: string, market: object) =>
    api.call<{ id: string } & ProblemBody>(api.bob, 'POST', '/v1/vms', {
      json: { name, image: 'debian-12', resources: { vcpus: 1, memoryMiB: 1024, diskMiB: 64 }, market },
    });
  expect((await buy('a', {})).body.code).toBe('insufficient-funds');
  const json = { owner: api.bob.ownerId, currency: 'EUR', lowerLimitMicros: '-1000000' };
  await api.call(api.operator, 'POST', '/v1/accounts', { json });
  expect((await buy('a', { maxHourMicros: '24999' })).body).toMatchObject({ code: 'offer-refused', status: 409 });
  expect((await buy('a', { minReliability: 2 })).status).toBe(400);
  const { body } = await buy('a', { maxHourMicros: '25000', move: true });
  const bill = await api.call<{ terms: { rules: object[] }; heldMicros: string }>(api.bob, 'GET', `/v1/bills/${body.id}`);
  expect(bill.body).toMatchObject({ heldMicros: '25000', terms: { rules: [{ provider: 'test', ...rates }, rates] } });
  const metrics = await (await fetch(`${api.operatorsBase}/metrics`)).text();
  expect(metrics).toContain('berth_market_offers{currency="EUR"} 1');
  expect(metrics).toContain('berth_market_orders{state="waiting"} 1');
  const reserved = { kind: 'reservation', startAt: new Date(Date.now() + 3_600_000).toISOString(), durationS: 60 };
  const fixed = await api.call(api.bob, 'POST', '/v1/vms', {
    json: { name: 'b', image: 'debian-12', lease: reserved, market: {} },
  });
  expect(fixed.status).toBe(400);
});

test('an offer is ended by its provider: nothing is accepted by it any more', async () => {
  const [{ id }] = (await offers()) as [OfferBody];
  const end = (party: typeof api.alice) => api.call<ProblemBody>(party, 'DELETE', `/v1/offers/${id}`);
  expect((await end(api.bob)).status).toBe(404);
  expect((await end(api.alice)).status).toBe(204);
  expect((await end(api.operator)).status).toBe(204);
  expect(await offers()).toEqual([]);
});
