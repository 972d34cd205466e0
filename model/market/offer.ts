import { z } from 'zod';
import { rateMicros } from '../money/price-terms.ts';

/** What a provider takes for what runs on its hosts; taxes are included, as in price books. */
export const OfferRates = z.strictObject({
  vcpuHourMicros: rateMicros('a vCPU for an hour'),
  memoryGiBHourMicros: rateMicros('a GiB of memory for an hour'),
  diskGiBHourMicros: rateMicros('a GiB of disk for an hour, also of a VM that is suspended or stopped'),
});
export type OfferRates = z.infer<typeof OfferRates>;

/** The name of a provider: a part of the facts of its hosts, and of prices. */
export const providerName = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, { error: 'expected lower-case letters, digits and "-", at most 63' });

/** What a site has seen of a provider's hosts in the last 30 days; null: nothing yet. */
export interface MeasuredProvider {
  /** From the placement of VMs until they answer, the median. */
  bootS: number | null;
  /** Of a migration from or to its hosts, the median. */
  moveS: number | null;
  /** Of the bytes of these migrations, the median. */
  mibPerS: number | null;
  /** Of what ran there and has ended, the share that did not end by the fault of a host. */
  reliability: number | null;
}

/** With which offers an order is content. */
export const MarketTerms = z
  .strictObject({
    currency: z
      .string()
      .regex(/^[A-Z]{3}$/, { error: 'expected three capital letters, such as EUR' })
      .optional()
      .meta({ description: "Of the offers; that of the owner's oldest account unless said" }),
    maxHourMicros: rateMicros('an hour of the whole order: the limit').optional(),
    providers: z.array(providerName).min(1).max(64).optional().meta({ description: 'Only these' }),
    minReliability: z.number().min(0).max(1).optional().meta({ description: 'A provider of which nothing is known has none' }),
    maxBootS: z.number().min(0).optional(),
    move: z.boolean().default(false).meta({
      description: 'A VM may move to a better offer by itself: as a cold migration with its disks, once an hour at most',
    }),
  })
  .meta({ id: 'MarketTerms', description: 'The order takes the cheapest offer that meets this, where there is room' });
export type MarketTerms = z.infer<typeof MarketTerms>;

/** Of an accepted order: the offers that it may use, the cheapest first. */
export const AcceptedMarket = z.strictObject({
  terms: MarketTerms,
  offers: z.array(z.strictObject({ offer: z.string(), provider: z.string(), hourMicros: z.number() })).min(1),
});
export type AcceptedMarket = z.infer<typeof AcceptedMarket>;
