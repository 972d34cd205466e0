import { formatMicros } from '../books/money.ts';
import { csvLine } from './statement.ts';

/**
 * Charges as FOCUS 1.0 has them (the FinOps Open Cost and Usage Specification), a row for each day, subject and party that was
 * paid. Their costs add up to what the lines of the statement took.
 */
export interface FocusCharge {
  /** Midnight of its day in UTC, ms since 1970. */
  dayMs: number;
  currency: string;
  /** The lease, or the owner where it is for files and ports. */
  subject: string;
  reason: string;
  /** The account that was paid. */
  kind: 'provider' | 'site' | 'tax';
  /** Of a provider: its name. */
  holder: string;
  name: string;
  amountMicros: bigint;
}

export interface FocusAccount {
  owner: { id: string; name: string };
  /** ms since 1970 */
  month: { fromMs: number; untilMs: number };
}

const dayMs = 86_400_000;
const issuer = 'Berth';

/** In the order of the specification. */
export const focusColumns = [
  'AvailabilityZone',
  'BilledCost',
  'BillingAccountId',
  'BillingAccountName',
  'BillingCurrency',
  'BillingPeriodEnd',
  'BillingPeriodStart',
  'ChargeCategory',
  'ChargeClass',
  'ChargeDescription',
  'ChargeFrequency',
  'ChargePeriodEnd',
  'ChargePeriodStart',
  'CommitmentDiscountCategory',
  'CommitmentDiscountId',
  'CommitmentDiscountName',
  'CommitmentDiscountStatus',
  'CommitmentDiscountType',
  'ConsumedQuantity',
  'ConsumedUnit',
  'ContractedCost',
  'ContractedUnitPrice',
  'EffectiveCost',
  'InvoiceIssuerName',
  'ListCost',
  'ListUnitPrice',
  'PricingCategory',
  'PricingQuantity',
  'PricingUnit',
  'ProviderName',
  'PublisherName',
  'RegionId',
  'RegionName',
  'ResourceId',
  'ResourceName',
  'ResourceType',
  'ServiceCategory',
  'ServiceName',
  'SkuId',
  'SkuPriceId',
  'SubAccountId',
  'SubAccountName',
  'Tags',
] as const;
type FocusColumn = (typeof focusColumns)[number];

/** FOCUS has seconds, and Z. */
const dateTime = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z');

/** The site bears what no account had: the buyer is credited. */
function categoryOf({ kind, name }: FocusCharge): 'Usage' | 'Tax' | 'Credit' {
  if (kind === 'tax') return 'Tax';
  return kind === 'site' && name === 'uncollected' ? 'Credit' : 'Usage';
}

const services: Record<string, { category: string; name: string }> = {
  'files and logs in the repository': { category: 'Storage', name: 'Repository' },
  'published ports': { category: 'Networking', name: 'Published ports' },
};

/**
 * A charge is one priced thing: what a lease used in a day at one provider, at the prices of its bill. So its quantity is one, below zero
 * where money came back.
 */
function fieldsOf(charge: FocusCharge, { owner, month }: FocusAccount): Partial<Record<FocusColumn, string>> {
  const { currency, subject, reason, kind, holder, amountMicros } = charge;
  const cost = formatMicros(amountMicros);
  const category = categoryOf(charge);
  const service = services[reason] ?? { category: 'Compute', name: 'Virtual machines' };
  const publisher = kind === 'provider' ? holder : issuer;
  const sku = `${service.name.toLowerCase().replaceAll(' ', '-')}/${publisher}`;
  const quantity = amountMicros < 0n ? '-1' : '1';
  const unitPrice = formatMicros(amountMicros < 0n ? -amountMicros : amountMicros);
  return {
    BilledCost: cost,
    EffectiveCost: cost,
    ListCost: cost,
    ContractedCost: cost,
    BillingAccountId: owner.id,
    BillingAccountName: owner.name,
    BillingCurrency: currency,
    BillingPeriodStart: dateTime(month.fromMs),
    BillingPeriodEnd: dateTime(month.untilMs),
    ChargeCategory: category,
    ChargeDescription: `${reason}, ${kind === 'provider' ? `provider ${holder}` : kind === 'tax' ? 'tax' : category === 'Credit' ? 'borne by the site' : "the site's part"}`,
    ChargeFrequency: 'Usage-Based',
    ChargePeriodStart: dateTime(charge.dayMs),
    ChargePeriodEnd: dateTime(charge.dayMs + dayMs),
    InvoiceIssuerName: issuer,
    ProviderName: issuer,
    PublisherName: publisher,
    ResourceId: subject,
    ResourceType: service.category === 'Compute' ? 'Lease' : 'Owner',
    ServiceCategory: service.category,
    ServiceName: service.name,
    ...(category === 'Usage' && {
      ConsumedQuantity: quantity,
      ConsumedUnit: 'Charges',
      ContractedUnitPrice: unitPrice,
      ListUnitPrice: unitPrice,
      PricingCategory: 'Standard',
      PricingQuantity: quantity,
      PricingUnit: 'Charges',
      SkuId: sku,
      SkuPriceId: sku,
    }),
  };
}

export const focusHeader = csvLine(focusColumns);

export function focusLine(charge: FocusCharge, account: FocusAccount): string {
  const fields = fieldsOf(charge, account);
  return csvLine(focusColumns.map((column) => fields[column] ?? ''));
}
