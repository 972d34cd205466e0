import { z } from 'zod';
import { PriceTerms } from '../../../model/money/price-terms.ts';
import { time, timeWithOffset } from '../common.ts';
import { currency, shownMicros } from './accounts.ts';

export const PriceBook = z
  .strictObject({
    id: z.string(),
    currency,
    terms: PriceTerms,
    validFrom: time,
    validUntil: time.nullable().meta({ description: 'Nothing is accepted by it from then on; null: it has no end' }),
    createdAt: time,
  })
  .meta({ id: 'PriceBook', description: 'Prices of what is accepted while it is valid' });

export const PriceBookOrder = z
  .strictObject({
    currency,
    terms: PriceTerms,
    validFrom: timeWithOffset.optional().meta({ description: 'Now unless said' }),
    validUntil: timeWithOffset.optional(),
  })
  .meta({ id: 'PriceBookOrder' });

export const QuotedPrice = z
  .strictObject({
    quote: z.string().meta({ description: 'An order that names it is billed at these prices, and never above the total' }),
    currency,
    totalMicros: shownMicros.meta({ description: 'The most that is charged' }),
    holdMicros: shownMicros.meta({ description: 'What the acceptance holds: all of a fixed start, an hour of best effort' }),
    terms: PriceTerms,
    expiresAt: time,
  })
  .meta({ id: 'QuotedPrice' });

export const Bill = z
  .strictObject({
    lease: z.string(),
    owner: z.string(),
    subject: z.string().meta({ description: 'The task or the VM whose lease it is' }),
    account: z.string().meta({ description: 'The account that pays' }),
    currency,
    quote: z.string().nullable(),
    terms: PriceTerms,
    totalMicros: shownMicros.nullable().meta({ description: 'The most that is charged; null: it has no end' }),
    chargedMicros: shownMicros.meta({ description: 'What its usage has cost until chargedAt' }),
    heldMicros: shownMicros.meta({ description: 'What is held for it now' }),
    uncollectedMicros: shownMicros.meta({ description: 'What of the charge the account did not have; the site bears it' }),
    chargedAt: time.nullable(),
    warnedAt: time.nullable().meta({ description: 'Since when the account cannot fill the hold' }),
    suspendedAt: time.nullable().meta({ description: 'When its VM was suspended for that, or its task cancelled' }),
    createdAt: time,
    endedAt: time.nullable().meta({ description: 'The bill is final since then, and nothing is held' }),
  })
  .meta({ id: 'Bill', description: 'The money of one lease' });
