import { z } from 'zod';

/** Which price a lease has: of a fixed start, of best effort that runs to its end, of best effort that may be suspended. */
export const priceClasses = ['reservation', 'bestEffort', 'interruptible'] as const;
export type PriceClass = (typeof priceClasses)[number];

export const minutesPerDay = 1440;
/** Rules of one price book. */
export const maxPriceRules = 200;
/** The highest price of an hour: a million units. With it no cost of what a task may have overflows a posting unnoticed. */
const maxRateMicros = 10n ** 12n;

/** A price of an hour, as a text. */
export const rateMicros = (of: string) =>
  z
    .string()
    .regex(/^(0|[1-9]\d{0,12})$/, { error: 'expected a whole number of micro-units as a text', abort: true })
    .refine((text) => BigInt(text) <= maxRateMicros, { error: `expected at most ${maxRateMicros} micro-units` })
    .meta({ description: `Micro-units for ${of}`, example: '20000' });

const minute = z.int().min(0).max(minutesPerDay).meta({ description: 'Minutes after midnight, UTC' });

const share = z.int().min(0).max(1_000_000);

/**
 * A row of a price book, for what meets all of its conditions. Of several the first applies: so the last has none. `dayFrom` and
 * `dayUntil` are a time of each day, [from, until), across midnight where the second is the smaller.
 */
export const PriceRule = z
  .strictObject({
    image: z.string().min(1).max(128).optional().meta({ description: 'Name of an image' }),
    provider: z.string().min(1).max(128).optional().meta({ description: 'Who provides the host' }),
    kind: z.enum(priceClasses).optional().meta({
      description: 'Of a fixed start, of best effort that is not suspended, or of best effort that may be',
    }),
    dayFrom: minute.optional(),
    dayUntil: minute.optional(),
    vcpuHourMicros: rateMicros('a vCPU for an hour'),
    memoryGiBHourMicros: rateMicros('a GiB of memory for an hour'),
    diskGiBHourMicros: rateMicros('a GiB of disk for an hour, also of a VM that is suspended or stopped'),
  })
  .refine(
    (rule) => (rule.dayFrom === undefined) === (rule.dayUntil === undefined) && (rule.dayFrom ?? 0) !== (rule.dayUntil ?? 1),
    {
      error: 'expected both dayFrom and dayUntil, and not the same, or none of them',
      path: ['dayFrom'],
    },
  )
  .meta({ id: 'PriceRule' });
export type PriceRule = z.infer<typeof PriceRule>;

/** Prices of what an owner uses besides leases: at any time of the day, and of the site alone. */
export const ServicePrices = z
  .strictObject({
    repositoryGiBHourMicros: rateMicros('a GiB of files and logs in the repository for an hour').default('0'),
    portHourMicros: rateMicros('a published port for an hour').default('0'),
  })
  .meta({ id: 'ServicePrices' });

const hasNoCondition = (rule: PriceRule | undefined): boolean =>
  rule !== undefined && [rule.image, rule.provider, rule.kind, rule.dayFrom].every((condition) => condition === undefined);

/** What a lease is billed by from its acceptance to its end, whatever becomes of the price book. */
export const PriceTerms = z
  .strictObject({
    rules: z
      .array(PriceRule)
      .min(1)
      .max(maxPriceRules)
      .refine((rules) => hasNoCondition(rules.at(-1)), {
        error: 'expected a last rule without conditions, which is for the rest',
      })
      .meta({ description: 'The first rule that applies has the price' }),
    services: ServicePrices.optional().meta({ description: 'Of files and published ports; without it they cost nothing' }),
    feeMillionths: share.default(0).meta({ description: "The site's share of each net price; the rest is the provider's" }),
    taxMillionths: share.default(0).meta({ description: 'Tax on net prices; the prices of rules include it' }),
    refundMillionths: share.default(1_000_000).meta({
      description:
        'What is given back of the price of a lease with a fixed start that ends by the fault of the site: of a million parts',
    }),
  })
  .meta({ id: 'PriceTerms' });
export type PriceTerms = z.infer<typeof PriceTerms>;

/** The terms of one lease: the rules that can apply to it, and none after the first that always does. */
export function termsOf(terms: PriceTerms, lease: { image: string; kind: PriceClass }): PriceTerms {
  const possible = terms.rules.filter(
    ({ image, kind }) => (image === undefined || image === lease.image) && (kind === undefined || kind === lease.kind),
  );
  const certain = possible.findIndex(({ provider, dayFrom }) => provider === undefined && dayFrom === undefined);
  const { services: _, ...rest } = terms;
  return { ...rest, rules: possible.slice(0, certain + 1).map(({ image: __, kind: ___, ...rule }) => rule) };
}
