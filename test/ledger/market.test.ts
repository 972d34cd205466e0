import fc from 'fast-check';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { moveToBetterOffers } from '../../ledger/offers/move-to-better.ts';
import { acceptOfferOnce, changeOfferEnded, readOffers } from '../../ledger/offers/offers.ts';
import { acceptJoinToken, acceptProviderOnce, findProvider, readProviders } from '../../ledger/offers/providers.ts';
import type { VmId } from '../../model/ids.ts';
import { BilledSite, virtualMiB } from './billed-site.ts';
import { addImage, addOwner, empty, failure, hostFacts, useLedger } from './ledger-fixture.ts';

/** Providers, their hosts and offers, and VMs that pay by them. Nothing else has a price. */

const fixture = useLedger();
let site: BilledSite;
const hour = 3_600_000;
const capacity = { vcpus: 2, memoryMiB: 8192, diskMiB: 40_000 };
const iso = () => new Date(fixture.now).toISOString();

beforeAll(() => {
  site = new BilledSite(fixture);
});
beforeEach(async () => {
  await empty(fixture);
  await addImage(fixture, 'debian-12', virtualMiB);
});

let keys = 0;
function request(ownerId: string) {
  keys += 1;
  return { ownerId, key: `key-${keys}`, method: 'POST', path: '/', fingerprint: '' };
}
const stored = (location: string) => ({ status: 201, text: '', location });

async function addProvider(name: string): Promise<string> {
  const ownerId = await addOwner(fixture, site.fresh(`of-${name}`));
  await acceptProviderOnce(fixture.ledger, request(ownerId), { name, ownerId, nowMs: fixture.now }, () => stored(name));
  return ownerId;
}

async function join(host: string, provider: string, size = capacity) {
  const { token } = await acceptJoinToken(fixture.ledger, provider, { nowMs: fixture.now, validS: 600 });
  await fixture.activities.registerHost(hostFacts(host, size, { joinToken: token }));
  return token;
}

/** Units for a vCPU, an hour; memory and disk cost nothing. */
async function publish(provider: string, vcpuHour: number, currency = 'EUR'): Promise<string> {
  fixture.now += 1;
  const rates = { vcpuHourMicros: String(vcpuHour * 1_000_000), memoryGiBHourMicros: '0', diskGiBHourMicros: '0' };
  const order = { provider, currency, rates, validUntilMs: null, nowMs: fixture.now };
  const { id } = await acceptOfferOnce(fixture.ledger, request(provider), order, (offer) => stored(`/v1/offers/${offer.id}`));
  return id;
}

const hostOf = async (vm: VmId) => (await fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).hostId;
const finish = (vm: VmId) => fixture.activities.finishVm(vm, { endedAt: iso(), error: null });
const buy = (owner: string, market: Record<string, unknown> = {}, more: Record<string, unknown> = {}) =>
  site.runningVm(owner, { market, ...more });
const balanceOf = async (provider: string): Promise<number> => {
  const row = await fixture.ledger.account.findFirst({ where: { kind: 'provider', holder: provider } });
  return row === null ? 0 : site.balance(row.id);
};

describe('a provider that somebody owns', () => {
  it('is joined with a token, once, by each host; its owner sees it and its account, and nobody else does', async () => {
    const owner = await addProvider('north');
    const wrong = hostFacts('a', capacity, { provider: 'north' });
    expect(await failure(fixture.activities.registerHost(wrong))).toMatchObject({ code: 'conflict' });
    expect(await failure(fixture.activities.registerHost({ ...wrong, joinToken: 'join_none' }))).toMatchObject({
      code: 'conflict',
    });
    const token = await join('a', 'north');
    expect(await fixture.ledger.host.findUniqueOrThrow({ where: { id: 'a' } })).toMatchObject({ provider: 'north' });
    // Its worker starts again, with the token and without.
    await fixture.activities.registerHost({ ...wrong, joinToken: token });
    await fixture.activities.registerHost(wrong);
    const other = hostFacts('b', capacity, { joinToken: token });
    expect(await failure(fixture.activities.registerHost(other))).toMatchObject({ code: 'conflict' });
    const late = await acceptJoinToken(fixture.ledger, 'north', { nowMs: fixture.now, validS: 60 });
    fixture.now += 61_000;
    expect(await failure(fixture.activities.registerHost({ ...other, joinToken: late.token }))).toMatchObject({
      code: 'conflict',
    });
    expect(await readProviders(fixture.ledger, owner)).toMatchObject([{ name: 'north', hosts: 1 }]);
    expect(await readProviders(fixture.ledger, 'owner_other')).toEqual([]);
    expect(await failure(findProvider(fixture.ledger, 'owner_other', 'north'))).toMatchObject({ code: 'not-found' });
    expect(JSON.stringify(await fixture.ledger.joinToken.findMany())).not.toContain(token);
  });

  it('keeps its hosts while VMs are there or are billed for it', async () => {
    await addProvider('north');
    await addProvider('south');
    await join('a', 'north');
    await publish('north', 1);
    const { owner, account } = await site.addBuyer(100);
    const vm = await buy(owner);
    const { token } = await acceptJoinToken(fixture.ledger, 'south', { nowMs: fixture.now, validS: 86_400 });
    const change = () => fixture.activities.registerHost(hostFacts('a', capacity, { joinToken: token }));
    expect(await failure(change())).toMatchObject({ code: 'conflict' });
    fixture.now += hour;
    await finish(vm);
    await change();
    expect(await site.balance(account)).toBe(99);
    expect([await balanceOf('north'), await balanceOf('south')]).toEqual([1, 0]);
    expect((await fixture.ledger.account.findFirstOrThrow({ where: { kind: 'provider' } })).ownerId).not.toBeNull();
  });
});

describe('an offer', () => {
  it('is replaced by the next one of its currency, ends, and has what was measured', async () => {
    const owner = await addProvider('north');
    await join('a', 'north');
    await publish('north', 3);
    const second = await publish('north', 2);
    await publish('north', 5, 'USD');
    const read = async () =>
      (await readOffers(fixture.ledger, fixture.now)).map(({ currency, rates }) => `${currency} ${rates.vcpuHourMicros}`);
    expect(await read()).toEqual(['EUR 2000000', 'USD 5000000']);
    const [offer] = await readOffers(fixture.ledger, fixture.now);
    expect(offer).toMatchObject({
      largest: capacity,
      measured: { bootS: null, moveS: null, mibPerS: null, reliability: null },
    });
    expect(await failure(changeOfferEnded(fixture.ledger, 'owner_other', second, fixture.now))).toMatchObject({
      code: 'not-found',
    });
    await changeOfferEnded(fixture.ledger, owner, second, fixture.now);
    expect(await read()).toEqual(['USD 5000000']);
    expect(await failure(fixture.sql(`UPDATE "Offer" SET rates = '{}'`))).toMatchObject({ code: 'BE005' });
  });

  it('is as reliable as what ran there has ended', async () => {
    await addProvider('north');
    await join('a', 'north', { vcpus: 100, memoryMiB: 800_000, diskMiB: 800_000 });
    await publish('north', 1);
    const { owner } = await site.addBuyer(1000);
    for (const code of ['vm-lost', null, null, null]) {
      const vm = await buy(owner);
      fixture.now += 1000;
      await fixture.activities.finishVm(vm, {
        endedAt: iso(),
        error: code === null ? null : { code: 'vm-lost', message: 'lost' },
      });
    }
    const [offer] = await readOffers(fixture.ledger, fixture.now);
    expect(offer!.measured.reliability).toBe(0.75);
    expect(await failure(site.vm(owner, { market: { minReliability: 0.8 } }))).toMatchObject({ code: 'offer-refused' });
    expect(await site.vm(owner, { market: { minReliability: 0.7 } })).toMatch(/^vm_/);
  });
});

describe('a VM that pays by offers', () => {
  beforeEach(async () => {
    for (const [name, price] of [
      ['north', 3],
      ['south', 2],
      ['east', 4],
    ] as const) {
      await addProvider(name);
      await join(`host-${name}`, name);
      await publish(name, price);
    }
    // Nobody's offer: never used by what pays by offers, and by all else.
    await fixture.activities.registerHost(hostFacts('own', { vcpus: 100, memoryMiB: 800_000, diskMiB: 800_000 }));
  });

  it('is at the cheapest within its limit that has room, waits for it, and pays its price', async () => {
    const { owner, account } = await site.addBuyer(1000);
    const vms: VmId[] = [];
    for (let n = 0; n < 4; n += 1) vms.push(await buy(owner, { maxHourMicros: '3000000' }));
    expect(await Promise.all(vms.map(hostOf))).toEqual(['host-south', 'host-south', 'host-north', 'host-north']);
    const fifth = await site.vm(owner, { market: { maxHourMicros: '3000000' } });
    expect(await fixture.activities.reserveVm(fifth)).toMatchObject({ placed: false });
    expect((await fixture.ledger.vm.findUniqueOrThrow({ where: { id: fifth } })).refusal).toMatchObject({
      failed: { offer: 2, vcpus: 2 },
    });
    // Who pays by no offers does not wait for that one.
    expect(await hostOf(await site.runningVm(owner))).not.toBeNull();
    fixture.now += hour;
    for (const vm of vms) await finish(vm);
    const charged = await Promise.all(vms.map(async (vm) => Number((await site.bill(vm)).chargedMicros) / 1e6));
    expect(charged.map(Math.floor)).toEqual([2, 2, 3, 3]);
    expect(await balanceOf('south')).toBeCloseTo(charged[0]! + charged[1]!, 6);
    expect(await balanceOf('north')).toBeCloseTo(charged[2]! + charged[3]!, 6);
    expect(await hostOf(fifth)).toBe('host-south');
    await fixture.activities.finishVm(fifth, { endedAt: null, error: null });
    expect(await site.balance(account)).toBeCloseTo(1000 - charged.reduce((sum, one) => sum + one), 6);
  });

  it('is at the cheapest of them as well where the planner places, and waits where they have no room', async () => {
    const { owner } = await site.addBuyer(1000);
    const startAt = new Date(fixture.now + 2 * hour).toISOString();
    await site.task(owner, { lease: { kind: 'reservation', startAt, durationS: 600 } });
    const place = async (market: object): Promise<string | null> => {
      const vm = await site.vm(owner, { market });
      expect(await fixture.activities.reserveVm(vm)).toMatchObject({ placed: false });
      fixture.now += 1000;
      await fixture.activities.stepPlan();
      return hostOf(vm);
    };
    const hosts = [];
    for (let n = 0; n < 5; n += 1) hosts.push(await place({ maxHourMicros: '3000000' }));
    expect(hosts).toEqual(['host-south', 'host-south', 'host-north', 'host-north', null]);
    expect(await place({ providers: ['east'] })).toBe('host-east');
  });

  it('is refused, and held for nothing, without an offer that meets it', async () => {
    const { owner, account } = await site.addBuyer(1000);
    for (const market of [
      { maxHourMicros: '1999999' },
      { providers: ['west'] },
      { maxBootS: 1 },
      { minReliability: 0 },
      { currency: 'USD' },
    ])
      expect(await failure(site.vm(owner, { market }))).toMatchObject({ code: 'offer-refused' });
    const large = { resources: { vcpus: 3, memoryMiB: 1024, diskMiB: 64 } };
    expect(await failure(site.vm(owner, { market: {}, ...large }))).toMatchObject({ code: 'offer-refused' });
    expect(await site.balance(account)).toBe(1000);
    const poor = await site.addBuyer(1);
    expect(await failure(site.vm(poor.owner, { market: {} }))).toMatchObject({ code: 'insufficient-funds' });
    expect(await failure(site.task(owner, { market: {}, lease: { kind: 'immediate', durationS: 60 } }))).toMatchObject({
      code: 'bad-request',
    });
  });

  it('is a task as well, with its limit for all of its VMs', async () => {
    const { owner } = await site.addBuyer(1000);
    expect(await failure(site.task(owner, { market: { maxHourMicros: '3999999' }, nodes: 2 }))).toMatchObject({
      code: 'offer-refused',
    });
    const task = await site.runningTask(owner, { market: { maxHourMicros: '4000000' }, nodes: 2 });
    const vms = await fixture.ledger.vm.findMany({ where: { taskId: task } });
    expect(vms.map(({ hostId }) => hostId)).toEqual(['host-south', 'host-south']);
  });

  it('moves to a better offer by itself where its owner allows that, also to a provider that came later', async () => {
    const { owner, account } = await site.addBuyer(1000);
    const fixed = await buy(owner, { providers: ['north'] });
    const moving = await buy(owner, { providers: ['north', 'west'], move: true });
    fixture.now += 2 * hour;
    const step = () => moveToBetterOffers(fixture.ledger, () => fixture.now);
    expect(await step()).toBe(0);
    await addProvider('west');
    await join('host-west', 'west');
    await publish('west', 1);
    expect(await step()).toBe(1);
    expect(await step()).toBe(0);
    const [migration] = await fixture.ledger.migration.findMany();
    expect(migration).toMatchObject({ vmId: moving, toId: 'host-west', mode: 'cold', moveDisk: true, requestedBy: 'market' });
    await fixture.activities.reserveMigration(migration!.id as Parameters<typeof fixture.activities.reserveMigration>[0]);
    fixture.now += hour;
    await fixture.activities.commitMigration(migration!.id as Parameters<typeof fixture.activities.commitMigration>[0], {
      downtimeMs: 1,
      bytes: 1,
      phases: [],
    });
    fixture.now += hour;
    for (const vm of [fixed, moving]) await finish(vm);
    const sum = (await site.balance(account)) + (await balanceOf('north')) + (await balanceOf('west'));
    expect(sum).toBeCloseTo(1000, 6);
    expect(await balanceOf('west')).toBe(1);
    // Each of its stays by the second, at the price of its provider.
    const bill = await site.billOfEvent(moving);
    expect((await site.bill(moving)).chargedMicros).toBe(bill.buyerMicros);
    expect(bill.providerMicros.get('west')).toBe(1_000_000n);
  });

  it('keeps what its bill promises but for prices of a provider that it has not', async () => {
    const { owner } = await site.addBuyer(1000);
    const vm = await buy(owner, { move: true });
    const change = (terms: string) => failure(fixture.sql(`UPDATE "Bill" SET terms = ${terms} WHERE "subjectId" = $1`, [vm]));
    for (const terms of [
      `jsonb_set(terms, '{rules,0,vcpuHourMicros}', '"9"')`,
      `jsonb_set(terms, '{taxMillionths}', '5')`,
      `jsonb_insert(terms, '{rules,0}', '{"provider": "west", "vcpuHourMicros": "1", "memoryGiBHourMicros": "0", "diskGiBHourMicros": "0"}')`,
      `jsonb_insert(terms, '{rules,-1}', '{"provider": "north", "vcpuHourMicros": "1", "memoryGiBHourMicros": "0", "diskGiBHourMicros": "0"}')`,
      `jsonb_insert(terms, '{rules,-1}', '{"vcpuHourMicros": "1", "memoryGiBHourMicros": "0", "diskGiBHourMicros": "0"}')`,
    ])
      expect(await change(terms)).toMatchObject({ code: 'BE005' });
  });

  it('is paid for to the micro-unit at each provider over random lives, and never above its limit', async () => {
    const names = ['north', 'south', 'east', 'own'];
    const step = fc.record({ minutes: fc.integer({ min: 1, max: 300 }), to: fc.constantFrom(...names), suspend: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 5 }), async (steps) => {
        const { owner, account } = await site.addBuyer(100_000);
        const paidBefore = new Map<string, number>();
        for (const name of ['north', 'south', 'east', 'site']) paidBefore.set(name, await balanceOf(name));
        const vm = await buy(owner, { maxHourMicros: '4000000' });
        const begin = fixture.now;
        for (const { minutes, to, suspend } of steps) {
          fixture.now += minutes * 60_000 + 7;
          await site.collect();
          if (suspend) {
            await fixture.activities.beginSuspension(vm);
            await fixture.activities.commitSuspension(vm);
            fixture.now += 12_345;
            await fixture.activities.beginRestoration(vm);
            await fixture.activities.commitRestoration(vm);
          }
          // By an operator, wherever that is.
          const host = to === 'own' ? 'own' : `host-${to}`;
          if ((await hostOf(vm)) === host) continue;
          const order = { vm, to: host, coldFallback: false, requestedBy: 'test', reason: null, nowMs: fixture.now };
          const migration = await fixture.ledger.$transaction((tx) => acceptMigration(tx, order));
          await fixture.activities.reserveMigration(migration);
          await fixture.activities.commitMigration(migration, { downtimeMs: 1, bytes: 1, phases: [] });
        }
        fixture.now += 1;
        await finish(vm);
        const expected = await site.billOfEvent(vm);
        const bill = await site.bill(vm);
        expect(bill.chargedMicros).toBe(expected.buyerMicros);
        expect(100_000 - (await site.balance(account))).toBeCloseTo(Number(expected.buyerMicros) / 1e6, 6);
        for (const [provider, micros] of expected.providerMicros)
          expect((await balanceOf(provider)) - paidBefore.get(provider)!).toBeCloseTo(Number(micros) / 1e6, 6);
        expect(Number(bill.chargedMicros)).toBeLessThanOrEqual(Math.ceil((4_000_000 * (fixture.now - begin)) / hour));
      }),
      { numRuns: Number(process.env.BERTH_PROPERTY_RUNS ?? 5) },
    );
    expect((await verifyBooks(fixture.ledger)).found).toEqual([]);
  });
});
