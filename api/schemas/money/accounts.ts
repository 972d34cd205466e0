import { z } from 'zod';
import { accountKinds, maxAmountMicros, maxBalanceMicros, transferKinds } from '../../../model/books/money.ts';
import { time } from '../common.ts';

/** A whole number of micro-units as a text, within a bound. */
const micros = (description: string, most: bigint) =>
  z
    .string()
    .regex(/^(0|-?[1-9]\d{0,18})$/, { error: 'expected a whole number of micro-units as a text', abort: true })
    .refine((text) => BigInt(text) <= most && BigInt(text) >= -most, { error: `expected at most ${most} micro-units` })
    .meta({ description, example: '12500000' });

/** What the books have, beyond any bound of what is asked for. */
export const shownMicros = z.string().meta({ description: "Millionths of the currency's unit", example: '12500000' });

export const currency = z.string().regex(/^[A-Z]{3}$/, { error: 'expected three capital letters, such as EUR' });

export const Account = z
  .strictObject({
    id: z.string(),
    kind: z.enum(accountKinds),
    owner: z.string().nullable().meta({ description: 'Who sees it; null: operators alone' }),
    holder: z.string().meta({ description: "Whose it is: an owner's id, a provider's name; empty for the site and for taxes" }),
    name: z.string().meta({ description: 'Of a hold, what it is for' }),
    currency,
    balanceMicros: shownMicros,
    lowerLimitMicros: shownMicros.nullable().meta({ description: 'Below which its balance never falls; null: no limit' }),
    createdAt: time,
    closedAt: time.nullable().meta({ description: 'It takes no entry since then: a hold that has ended' }),
  })
  .meta({ id: 'Account', description: 'Money of one party in one currency' });

export const AccountOrder = z
  .strictObject({
    owner: z.string().min(1).max(64).meta({ description: "The owner's id" }),
    currency,
    lowerLimitMicros: micros('Below which its balance never falls: 0 is prepaid, below zero is credit', maxBalanceMicros)
      .refine((text) => BigInt(text) <= 0n, { error: 'expected 0 or less: the account begins with nothing' })
      .default('0'),
  })
  .meta({ id: 'AccountOrder' });

export const Entry = z
  .strictObject({
    sequence: z.string().meta({ description: "Its place among the account's entries" }),
    transfer: z.string(),
    kind: z.enum(transferKinds),
    reason: z.string(),
    subject: z.string().meta({ description: 'The resource that it is for' }),
    amountMicros: shownMicros.meta({ description: 'What it adds to the account; below zero it takes' }),
    balanceMicros: shownMicros.nullable().meta({ description: 'Of the account after it; null: the account has no lower limit' }),
    at: time,
  })
  .meta({ id: 'Entry', description: 'What a transfer has added to an account; it never changes' });

export const AdjustmentOrder = z
  .strictObject({
    amountMicros: micros('What to add; below zero it is taken', maxAmountMicros).refine((text) => text !== '0', {
      error: 'expected an amount that is not 0',
    }),
    reason: z.string().min(1).max(500).meta({ description: 'For those who read the entries' }),
  })
  .meta({ id: 'AdjustmentOrder' });

export const Adjustment = z
  .strictObject({
    account: z.string(),
    transfer: z.string(),
    currency,
    amountMicros: shownMicros,
    balanceMicros: shownMicros.nullable(),
    reason: z.string(),
    at: time,
  })
  .meta({ id: 'Adjustment' });

export const BooksProof = z
  .strictObject({
    at: time,
    seconds: z.number(),
    accounts: z.int(),
    transfers: z.int(),
    entries: z.int(),
    problems: z.int().meta({ description: 'How many were found' }),
    found: z
      .array(z.strictObject({ kind: z.string(), id: z.string(), detail: z.string() }))
      .meta({ description: 'The first hundred of each kind, with the id of the account or the transfer' }),
  })
  .meta({ id: 'BooksProof', description: 'What was found wrong with the books' });
