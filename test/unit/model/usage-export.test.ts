import { describe, expect, it } from 'vitest';
import { type FocusCharge, focusColumns, focusHeader, focusLine } from '../../../model/money/focus.ts';
import { PriceTerms, termsOf } from '../../../model/money/price-terms.ts';
import { serviceCharge, servicePartsPerMicro } from '../../../model/money/services.ts';

const account = {
  owner: { id: 'owner_1', name: '=Ann' },
  month: { fromMs: Date.parse('2026-11-01'), untilMs: Date.parse('2026-12-01') },
};
const charge = (more: Partial<FocusCharge>): FocusCharge => ({
  dayMs: Date.parse('2026-11-30'),
  currency: 'EUR',
  subject: 'lease_1',
  reason: 'usage of the lease',
  kind: 'provider',
  holder: 'north',
  name: '',
  amountMicros: 1_234_567n,
  ...more,
});

function fields(line: string): Record<string, string> {
  expect(line.endsWith('\r\n')).toBe(true);
  const values = line.trimEnd().split(',');
  expect(values.length).toBe(focusColumns.length);
  return Object.fromEntries(focusColumns.map((column, index) => [column, values[index]!]));
}
const row = (more: Partial<FocusCharge>) =>
  fields(focusLine(charge({ reason: 'usage', ...more }), account).replace(/"[^"]*"/g, 'quoted'));

describe('a charge as FOCUS 1.0 has it', () => {
  it('has each column of the specification, in its order', () => {
    expect(focusHeader.trimEnd().split(',')).toEqual([...focusColumns]);
    expect(focusColumns.toSorted()).toEqual([...focusColumns]);
    expect(focusColumns.length).toBe(43);
  });

  it('of usage has a quantity whose product with the price is the cost, at the provider', () => {
    expect(row({})).toMatchObject({
      BilledCost: '1.234567',
      ListUnitPrice: '1.234567',
      PricingQuantity: '1',
      ConsumedQuantity: '1',
      ChargeCategory: 'Usage',
      ChargePeriodStart: '2026-11-30T00:00:00Z',
      ChargePeriodEnd: '2026-12-01T00:00:00Z',
      BillingPeriodStart: '2026-11-01T00:00:00Z',
      BillingPeriodEnd: '2026-12-01T00:00:00Z',
      BillingAccountId: 'owner_1',
      // A spreadsheet computes no name.
      BillingAccountName: "'=Ann",
      PublisherName: 'north',
      ServiceCategory: 'Compute',
    });
  });

  it('of what came back has a quantity below zero, and no price below it', () => {
    expect(row({ amountMicros: -500_000n })).toMatchObject({ BilledCost: '-0.5', ListUnitPrice: '0.5', PricingQuantity: '-1' });
  });

  it('of tax, and of what the site bears, has neither price nor quantity', () => {
    for (const [more, category] of [
      [{ kind: 'tax', holder: '' }, 'Tax'],
      [{ kind: 'site', holder: '', name: 'uncollected', amountMicros: -5n }, 'Credit'],
    ] as const)
      expect(row(more)).toMatchObject({
        ChargeCategory: category,
        PricingQuantity: '',
        ListUnitPrice: '',
        ConsumedQuantity: '',
        SkuId: '',
        PricingCategory: '',
      });
  });

  it('of files and ports is of their services', () => {
    expect(row({ reason: 'files and logs in the repository', kind: 'site', holder: '', name: 'fees' }).ServiceCategory).toBe(
      'Storage',
    );
    expect(row({ reason: 'published ports', kind: 'site', holder: '', name: 'fees' }).ServiceCategory).toBe('Networking');
  });
});

describe('a charge of services', () => {
  const terms = PriceTerms.parse({
    rules: [{ vcpuHourMicros: '1', memoryGiBHourMicros: '1', diskGiBHourMicros: '1' }],
    taxMillionths: 190_000,
    services: { portHourMicros: '5' },
  });

  it('is rounded half to even, and what that leaves is due the next time', () => {
    const half = servicePartsPerMicro / 2n;
    expect(serviceCharge(terms, 2n * servicePartsPerMicro + half, 1000n)).toMatchObject({ buyerMicros: 2n, leftParts: half });
    expect(serviceCharge(terms, 3n * servicePartsPerMicro + half, 1000n)).toMatchObject({ buyerMicros: 4n, leftParts: -half });
    expect(serviceCharge(terms, -half, 1000n)).toMatchObject({ buyerMicros: 0n, leftParts: -half, unpaidMicros: 0n });
  });

  it('is what the account has, and the shares sum to it', () => {
    const charge_ = serviceCharge(terms, 1190n * servicePartsPerMicro, 119n);
    expect(charge_).toMatchObject({ buyerMicros: 119n, taxMicros: 19n, siteMicros: 100n, unpaidMicros: 1071n });
    expect(serviceCharge(terms, 5n * servicePartsPerMicro, -7n)).toMatchObject({ buyerMicros: 0n, unpaidMicros: 5n });
  });

  it('is none of the terms of a lease', () => {
    expect(termsOf(terms, { image: 'debian-12', kind: 'bestEffort' })).not.toHaveProperty('services');
  });
});
