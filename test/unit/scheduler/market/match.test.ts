import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MarketTerms } from '../../../../model/market/offer.ts';
import { betterHost, type PricedHost } from '../../../../scheduler/market/better-offer.ts';
import { hourMicrosOf, type KnownOffer, matchOffers } from '../../../../scheduler/market/match.ts';
import { type PlacementHost, placeQueue } from '../../../../scheduler/placement.ts';

const price = fc.integer({ min: 0, max: 50 }).map(String);
const share = fc.option(fc.constantFrom(0, 0.5, 0.9, 1));
const offer = (provider: string): fc.Arbitrary<KnownOffer> =>
  fc.record({
    id: fc.constant(`offer_${provider}`),
    provider: fc.constant(provider),
    currency: fc.constantFrom('EUR', 'USD'),
    rates: fc.record({ vcpuHourMicros: price, memoryGiBHourMicros: price, diskGiBHourMicros: price }),
    measured: fc.record({ bootS: fc.option(fc.integer({ min: 0, max: 9 })), moveS: share, mibPerS: share, reliability: share }),
    largest: fc.option(
      fc.record({ vcpus: fc.integer({ min: 1, max: 4 }), memoryMiB: fc.constant(4096), diskMiB: fc.constant(9000) }),
    ),
  });
const offers = fc.tuple(...['north', 'south', 'east', 'west'].map(offer)).chain((all) => fc.shuffledSubarray(all));
const order = fc.record({
  nodes: fc.integer({ min: 1, max: 3 }),
  vcpus: fc.integer({ min: 1, max: 4 }),
  memoryMiB: fc.constantFrom(256, 1000, 4096),
  diskMiB: fc.constantFrom(1, 512, 2048),
  currency: fc.constant('EUR'),
});
const terms = fc
  .record(
    {
      maxHourMicros: fc.integer({ min: 0, max: 600 }).map(String),
      providers: fc.uniqueArray(fc.constantFrom('north', 'south', 'east'), { minLength: 1 }),
      minReliability: fc.constantFrom(0, 0.9, 1),
      maxBootS: fc.integer({ min: 0, max: 9 }),
    },
    { requiredKeys: [] },
  )
  .map((given) => MarketTerms.parse(given));
const runs = { numRuns: 2000 };

describe('matching', () => {
  it('has each offer once, the cheapest first, whatever order they come in', () => {
    fc.assert(
      fc.property(offers, order, terms, (all, of, given) => {
        const { matched, refused } = matchOffers(all, of, given);
        const ids = [...matched, ...refused].map((one) => one.offer.id);
        expect(ids.toSorted()).toEqual(all.map(({ id }) => id).toSorted());
        const costs = matched.map(({ hourMicros }) => hourMicros);
        expect(costs).toEqual(costs.toSorted((a, b) => a - b));
        expect(matchOffers(all.toReversed(), of, given).matched).toEqual(matched);
      }),
      runs,
    );
  });

  it('matches no offer above the limit or against a constraint, and refuses none that meets them all', () => {
    fc.assert(
      fc.property(offers, order, terms, (all, of, given) => {
        const meets = ({ provider, currency, rates, measured: { bootS, reliability }, largest }: KnownOffer): boolean => {
          const each =
            of.vcpus * Number(rates.vcpuHourMicros) +
            (of.memoryMiB / 1024) * Number(rates.memoryGiBHourMicros) +
            (of.diskMiB / 1024) * Number(rates.diskGiBHourMicros);
          return (
            currency === of.currency &&
            (given.providers === undefined || given.providers.includes(provider)) &&
            (given.minReliability === undefined || (reliability ?? -1) >= given.minReliability) &&
            (given.maxBootS === undefined || (bootS ?? Number.POSITIVE_INFINITY) <= given.maxBootS) &&
            largest !== null &&
            largest.vcpus >= of.vcpus &&
            largest.memoryMiB >= of.memoryMiB &&
            largest.diskMiB >= of.diskMiB &&
            (given.maxHourMicros === undefined || Math.ceil(of.nodes * each) <= Number(given.maxHourMicros))
          );
        };
        const { matched } = matchOffers(all, of, given);
        expect(matched.map((one) => one.offer.id).toSorted()).toEqual(
          all
            .filter(meets)
            .map(({ id }) => id)
            .toSorted(),
        );
        for (const { offer: one, hourMicros } of matched) expect(BigInt(hourMicros)).toBe(hourMicrosOf(one.rates, of));
      }),
      runs,
    );
  });
});

const host = fc.record({
  state: fc.constantFrom('up' as const, 'unknown' as const),
  schedulable: fc.boolean(),
  freeVcpus: fc.integer({ min: 0, max: 4 }),
  cost: fc.option(fc.integer({ min: 1, max: 5 })),
});
const site = fc.array(host, { minLength: 1, maxLength: 6 });
const capacity = { vcpus: 4, memoryMiB: 4096, diskMiB: 9000 };
const each = { vcpus: 1, memoryMiB: 1, diskMiB: 1 };

describe('placement by offers', () => {
  it('takes the cheapest hosts that have room, of those offered alone, and blocks nobody where there is none', () => {
    fc.assert(
      fc.property(site, fc.integer({ min: 1, max: 5 }), (all, nodes) => {
        const hosts = all.map(
          ({ state, schedulable, freeVcpus }, n): PlacementHost => ({
            id: `h${n}`,
            state,
            schedulable,
            capacity,
            used: { vcpus: 4 - freeVcpus, memoryMiB: 0, diskMiB: 0 },
            images: new Set<string>(),
          }),
        );
        const hostCosts = new Map(all.flatMap(({ cost }, n) => (cost === null ? [] : [[String(`h${n}`), cost] as const])));
        const request = { id: 'a', nodes, perVm: each, imageId: null, overtaken: 0, hostCosts };
        const any = { id: 'b', nodes: 1, perVm: each, imageId: null, overtaken: 0 };
        const [{ verdict }, second] = placeQueue([request, any], hosts, { maxOvertaken: 0, lookahead: 9 }) as [
          ReturnType<typeof placeQueue>[0],
          ReturnType<typeof placeQueue>[0],
        ];
        const slots = all.flatMap(({ state, schedulable, freeVcpus, cost }) =>
          state === 'up' && schedulable && cost !== null ? Array<number>(freeVcpus).fill(cost) : [],
        );
        if (verdict.kind === 'placed') {
          const least = slots.toSorted((a, b) => a - b).slice(0, nodes);
          expect(verdict.hosts.map((id) => hostCosts.get(id)!).toSorted((a, b) => a - b)).toEqual(least);
        } else expect(nodes > slots.length || all.length * 4 < nodes).toBe(true);
        // What no offered host could hold, empty, makes nobody wait.
        const offered = all.filter(({ state, schedulable, cost }) => state === 'up' && schedulable && cost !== null).length;
        const free = all.some(({ state, schedulable, freeVcpus }) => state === 'up' && schedulable && freeVcpus > 0);
        if (verdict.kind !== 'placed' && offered * 4 < nodes && free) expect(second.verdict.kind).toBe('placed');
      }),
      runs,
    );
  });
});

describe('a better offer', () => {
  it('is the cheapest host that can take the VM, by its least share at least, and never a dearer one', () => {
    fc.assert(
      fc.property(site, (all) => {
        const hosts = all.map(
          ({ state, schedulable, freeVcpus, cost }, n): PricedHost => ({
            id: `h${n}`,
            state,
            acceptsMigrations: schedulable,
            accelerator: 'qemu',
            cpuModel: 'any',
            hasImage: false,
            capacity,
            used: { vcpus: 4 - freeVcpus, memoryMiB: 0 },
            freeDiskMiB: 9000,
            arriving: 0,
            leaving: 0,
            hourMicros: cost,
          }),
        );
        const vm = { host: 'h0', vcpus: 1, memoryMiB: 256, disk: { homeHost: 'h0', diskMiB: 10, memoryMiB: 256 } };
        const found = betterHost(vm, hosts, 0.3);
        const now = all[0]!.cost;
        const fitting = all
          .map(({ state, schedulable, freeVcpus, cost }, n) => ({
            n,
            cost,
            fits: state === 'up' && schedulable && freeVcpus > 0,
          }))
          .filter(({ n, cost, fits }) => n > 0 && fits && cost !== null && now !== null && cost <= now * 0.7);
        if (found === null) expect(fitting).toEqual([]);
        else expect(found.hourMicros).toBe(Math.min(...fitting.map(({ cost }) => cost!)));
      }),
      runs,
    );
  });

  it('is none where the VM is at no offer, as after an operator has moved it', () => {
    expect(betterHost({ host: 'gone', vcpus: 1, memoryMiB: 1 }, [], 0.1)).toBeNull();
  });
});
