import { z } from 'zod';
import { OfferRates, providerName } from '../../../model/market/offer.ts';
import { time, timeWithOffset } from '../common.ts';
import { currency } from './accounts.ts';

export const Provider = z
  .strictObject({
    name: z.string(),
    owner: z.string().meta({ description: 'Who makes its tokens and offers, and sees its accounts' }),
    hosts: z.int().meta({ description: 'Of it that are part of the site' }),
    createdAt: time,
  })
  .meta({ id: 'Provider', description: 'Who provides hosts, where somebody owns them' });

export const ProviderOrder = z
  .strictObject({ name: providerName, owner: z.string().min(1).max(64) })
  .meta({ id: 'ProviderOrder' });

export const OfProvider = z.strictObject({ provider: providerName });

export const JoinTokenOrder = z
  .strictObject({
    validS: z
      .int()
      .min(60)
      .max(30 * 86_400)
      .default(86_400)
      .meta({ description: 'Until when a machine has to have joined with it' }),
  })
  .meta({ id: 'JoinTokenOrder' });

export const JoinToken = z
  .strictObject({
    id: z.string(),
    provider: z.string(),
    token: z.string().meta({ description: 'BERTH_JOIN_TOKEN of one host. It is shown once' }),
    expiresAt: time,
  })
  .meta({ id: 'JoinToken' });

const measured = (what: string) =>
  z
    .number()
    .nullable()
    .meta({ description: `${what}; null: nothing was seen yet` });

const offer = {
  id: z.string(),
  provider: z.string(),
  currency,
  rates: OfferRates,
  validFrom: time,
  validUntil: time.nullable(),
};

export const PublishedOffer = z.strictObject(offer).meta({ id: 'PublishedOffer' });

export const Offer = z
  .strictObject({
    ...offer,
    largest: z
      .strictObject({ vcpus: z.int(), memoryMiB: z.int(), diskMiB: z.int() })
      .nullable()
      .meta({ description: 'The most that a VM can have; null: the provider has no host now' }),
    measured: z.strictObject({
      bootS: measured('From the placement of VMs until they answer, the median of 30 days'),
      moveS: measured('Of a migration from or to its hosts, the median'),
      mibPerS: measured('Of the bytes of these migrations, the median'),
      reliability: measured('Of what has run there and ended, the share that did not end by the fault of a host'),
    }),
  })
  .meta({ id: 'Offer', description: 'Prices of a provider, with what the site has measured of it' });

export const OfferOrder = z
  .strictObject({
    provider: providerName,
    currency,
    rates: OfferRates,
    validUntil: timeWithOffset
      .optional()
      .meta({ description: 'Nothing is accepted by it from then on; it has no end unless said' }),
  })
  .meta({ id: 'OfferOrder' });
