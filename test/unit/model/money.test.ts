import '../../seed.ts';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { billOf } from '../../../model/money/bill.ts';
import { type Charge, chargeOf, type PaidShares } from '../../../model/money/charge.ts';
import { costByProvider, type MeteredInterval, type MeteredSize, mostMicros } from '../../../model/money/cost.ts';
import { costPartsPerMicro, divideHalfEven } from '../../../model/money/exact.ts';
import { meteredIntervals } from '../../../model/money/metered.ts';
import { type PriceRule, PriceTerms, priceClasses, termsOf } from '../../../model/money/price-terms.ts';

/** Of lives of leases; BERTH_PROPERTY_RUNS has more. */
const lives = Number(process.env.BERTH_PROPERTY_RUNS ?? 10_000);
const providers = ['north', 'south', 'site'];
const dayMs = 86_400_000;
const minuteMs = 60_000;

const rates = fc.record({
  vcpuHourMicros: fc.bigInt(0n, 10n ** 6n).map(String),
  memoryGiBHourMicros: fc.bigInt(0n, 10n ** 6n).map(String),
  diskGiBHourMicros: fc.bigInt(0n, 10n ** 4n).map(String),
});
const day = fc.record({ dayFrom: fc.nat(1440), dayUntil: fc.nat(1440) }).filter(({ dayFrom, dayUntil }) => dayFrom !== dayUntil);
const rule = fc
  .tuple(rates, fc.option(fc.constantFrom(...providers, 'other')), fc.option(day), fc.option(fc.constantFrom(...priceClasses)))
  .map(
    ([price, provider, hours, kind]): PriceRule => ({
      ...price,
      ...(provider !== null && { provider }),
      ...hours,
      ...(kind !== null && { kind }),
    }),
  );
const share = fc.oneof(fc.constant(0), fc.constant(1_000_000), fc.nat(1_000_000));
const terms = fc
  .record({
    rules: fc.array(rule, { maxLength: 4 }),
    last: rates,
    feeMillionths: share,
    taxMillionths: share,
    refundMillionths: share,
  })
  .map(({ rules, last, ...rest }) => PriceTerms.parse({ ...rest, rules: [...rules, last] }));
const size = fc.record<MeteredSize>({ vcpus: fc.nat(64), memoryMiB: fc.nat(10_000), diskMiB: fc.nat(100_000) });
const interval = fc
  .record({ size, provider: fc.constantFrom(...providers), fromMs: fc.nat(10 * dayMs), ms: fc.nat(3 * dayMs) })
  .map(({ size: taken, provider, fromMs, ms }): MeteredInterval => ({ ...taken, provider, fromMs, untilMs: fromMs + ms }));

/** The same cost by the definition alone: each piece between two minutes at the first rule that applies at its begin. */
function slowCost({ rules }: PriceTerms, { provider, fromMs, untilMs, ...taken }: MeteredInterval): bigint {
  let sum = 0n;
  for (let at = fromMs; at < untilMs; ) {
    const next = Math.min(untilMs, Math.floor(at / minuteMs + 1) * minuteMs);
    const minute = Math.floor((at % dayMs) / minuteMs);
    const applies = ({ dayFrom: from, dayUntil: until, provider: of }: PriceRule) =>
      (of === undefined || of === provider) &&
      (from === undefined ||
        until === undefined ||
        (from < until ? minute >= from && minute < until : minute >= from || minute < until));
    const { vcpuHourMicros, memoryGiBHourMicros, diskGiBHourMicros } = rules.find(applies)!;
    const [vcpu, memory, disk] = [vcpuHourMicros, memoryGiBHourMicros, diskGiBHourMicros].map(BigInt) as [bigint, bigint, bigint];
    sum +=
      BigInt(next - at) * (BigInt(taken.vcpus) * 1024n * vcpu + BigInt(taken.memoryMiB) * memory + BigInt(taken.diskMiB) * disk);
    at = next;
  }
  return sum;
}

const total = (amounts: Iterable<bigint>): bigint => [...amounts].reduce((sum, amount) => sum + amount, 0n);

describe('division', () => {
  it.each([
    [5n, 2n, 2n],
    [7n, 2n, 4n],
    [-5n, 2n, -2n],
    [-7n, 2n, -4n],
    [8n, 3n, 3n],
    [-8n, 3n, -3n],
    [7n, 3n, 2n],
  ])('of %d by %d rounds half to even: %d', (numerator, denominator, expected) => {
    expect(divideHalfEven(numerator, denominator)).toBe(expected);
  });
});

describe('a cost', () => {
  it('is that of each millisecond at the first rule that applies to it', () => {
    fc.assert(
      fc.property(terms, interval, (given, taken) => {
        const short = { ...taken, untilMs: Math.min(taken.untilMs, taken.fromMs + 2 * dayMs) };
        expect(total(costByProvider(termsOf(given, { image: 'i', kind: 'reservation' }), [short]).values())).toBe(
          slowCost(termsOf(given, { image: 'i', kind: 'reservation' }), short),
        );
      }),
      { numRuns: Math.min(lives, 300) },
    );
  });

  it('is the same in one interval and in parts', () => {
    fc.assert(
      fc.property(terms, interval, fc.nat(3 * dayMs), (given, taken, cut) => {
        const at = Math.min(taken.untilMs, taken.fromMs + cut);
        const parts = [
          { ...taken, untilMs: at },
          { ...taken, fromMs: at },
        ];
        expect(costByProvider(given, parts)).toEqual(costByProvider(given, [taken]));
      }),
      { numRuns: Math.min(lives, 1000) },
    );
  });

  it('is never above the most that was quoted, at whatever provider and hour', () => {
    fc.assert(
      fc.property(terms, interval, (given, taken) => {
        const limit = (micros: bigint) => micros * costPartsPerMicro;
        const cost = total(costByProvider(given, [taken]).values());
        const { fromMs, untilMs } = taken;
        expect(cost <= limit(mostMicros(given, taken, { fromMs, untilMs }))).toBe(true);
        expect(mostMicros(given, taken, { fromMs, untilMs }) <= mostMicros(given, taken, { durationMs: untilMs - fromMs })).toBe(
          true,
        );
      }),
      { numRuns: Math.min(lives, 1000) },
    );
  });

  it('of a lease is by the rules for its image and kind alone', () => {
    const last = { vcpuHourMicros: '1', memoryGiBHourMicros: '0', diskGiBHourMicros: '0' };
    const given = PriceTerms.parse({
      rules: [{ ...last, image: 'big', vcpuHourMicros: '7' }, { ...last, kind: 'interruptible', vcpuHourMicros: '0' }, last],
    });
    expect(termsOf(given, { image: 'big', kind: 'bestEffort' }).rules).toEqual([{ ...last, vcpuHourMicros: '7' }]);
    expect(termsOf(given, { image: 'other', kind: 'interruptible' }).rules).toEqual([{ ...last, vcpuHourMicros: '0' }]);
    expect(termsOf(given, { image: 'other', kind: 'reservation' }).rules).toEqual([last]);
  });
});

describe('disk', () => {
  it('counts from the start to the end, at the provider of the residency before', () => {
    const at = (hour: number) => new Date(hour * 3_600_000).toISOString();
    const stay = (provider: string, from: number, until: number) => ({
      vm: 'vm',
      host: 'host',
      provider,
      vcpus: 1,
      memoryMiB: 2,
      startedAt: at(from),
      endedAt: at(until),
      vcpuSeconds: 0,
      memoryMiBSeconds: 0,
    });
    const disks = meteredIntervals([stay('north', 0, 2), stay('south', 5, 6)], 30, 9 * 3_600_000).filter(
      ({ diskMiB }) => diskMiB > 0,
    );
    expect(disks.map(({ provider, fromMs, untilMs }) => [provider, fromMs / 3_600_000, untilMs / 3_600_000])).toEqual([
      ['north', 0, 5],
      ['south', 5, 9],
    ]);
  });
});

/** What happens to a lease: more usage and a charge, an owner who pays in, usage that was counted too high. */
type Step = { more: MeteredInterval } | { charge: true } | { deposit: bigint } | { correct: number };
const step: fc.Arbitrary<Step> = fc.oneof(
  interval.map((more) => ({ more })),
  fc.constant({ charge: true as const }),
  fc.bigInt(0n, 10n ** 8n).map((deposit) => ({ deposit })),
  fc.nat(dayMs).map((correct) => ({ correct })),
);

const nothing: PaidShares = { buyerMicros: 0n, taxMicros: 0n, siteMicros: 0n, providerMicros: new Map() };
const buyerOf = ({ holdMicros, accountMicros, uncollectedMicros }: Charge) => holdMicros + accountMicros + uncollectedMicros;
const sumOfCharge = (charge: Charge) =>
  buyerOf(charge) + charge.taxMicros + charge.siteMicros + total(charge.providerMicros.values());

describe('the money of a lease, through random lives', () => {
  it('sums to zero, and at its end is usage × price to the micro-unit, never above the quote', () => {
    fc.assert(
      fc.property(
        terms,
        fc.array(step, { minLength: 1, maxLength: 12 }),
        fc.option(fc.bigInt(0n, 10n ** 9n)),
        fc.bigInt(0n, 10n ** 8n),
        fc.boolean(),
        (given, steps, totalMicros, held, broken) => {
          let usage: MeteredInterval[] = [];
          let paid = nothing;
          const funds = { heldMicros: held, availableMicros: 0n, uncollectedMicros: 0n };
          let deposits = held;
          const charge = (isBroken: boolean) => {
            const bill = billOf(given, costByProvider(given, usage), { totalMicros, broken: isBroken });
            const made = chargeOf(bill, paid, funds);
            expect(sumOfCharge(made)).toBe(0n);
            funds.heldMicros += made.holdMicros;
            funds.availableMicros += made.accountMicros;
            funds.uncollectedMicros -= made.uncollectedMicros;
            expect([funds.heldMicros, funds.availableMicros, funds.uncollectedMicros].every((amount) => amount >= 0n)).toBe(true);
            paid = bill;
            return bill;
          };
          for (const one of steps) {
            if ('more' in one) usage.push(one.more);
            else if ('deposit' in one) {
              funds.availableMicros += one.deposit;
              deposits += one.deposit;
            } else if ('correct' in one)
              usage = usage.map((taken) => ({ ...taken, untilMs: Math.max(taken.fromMs, taken.untilMs - one.correct) }));
            else charge(false);
          }
          const bill = charge(broken);
          // Once more: nothing is posted twice.
          expect(buyerOf(chargeOf(bill, paid, funds))).toBe(0n);

          const cost = total(costByProvider(given, usage).values());
          const kept = broken ? 1_000_000n - BigInt(given.refundMillionths) : 1_000_000n;
          const due = divideHalfEven(cost * kept, costPartsPerMicro * 1_000_000n);
          const limit = totalMicros === null ? null : divideHalfEven(totalMicros * kept, 1_000_000n);
          expect(bill.buyerMicros).toBe(limit !== null && cost > totalMicros! * costPartsPerMicro ? limit : due);
          expect(bill.buyerMicros).toBe(bill.taxMicros + bill.siteMicros + total(bill.providerMicros.values()));
          expect(totalMicros === null || bill.buyerMicros <= totalMicros).toBe(true);
          // What left the owner is what the bill says, less what the site bears.
          expect(deposits - funds.heldMicros - funds.availableMicros).toBe(bill.buyerMicros - funds.uncollectedMicros);
          // The remainder of the roundings is at most a micro-unit for each of them.
          if (given.feeMillionths === 0) {
            const most = BigInt(bill.providerMicros.size + 2);
            expect(bill.siteMicros <= most && bill.siteMicros >= -most).toBe(true);
          }
        },
      ),
      { numRuns: lives },
    );
  });
});
