import { z } from 'zod';
import { maxAmountMicros } from '../../../model/books/money.ts';
import { monthPattern } from '../../../model/money/statement.ts';
import { time } from '../common.ts';
import { currency, shownMicros } from './accounts.ts';

export const OfMonth = z.strictObject({
  month: z
    .string()
    .max(7)
    .regex(monthPattern, { error: 'expected a month such as 2026-11' })
    .meta({ description: 'In UTC', example: '2026-11' }),
});

const Line = z.strictObject({
  subject: z.string().meta({ description: 'The lease, or the account that was adjusted' }),
  reason: z.string(),
  transfers: z.int().meta({ description: 'How many it sums' }),
  from: time,
  until: time,
  amountMicros: shownMicros.meta({ description: 'Below zero it was taken' }),
});

export const Statement = z
  .strictObject({
    owner: z.string(),
    month: z.string(),
    final: z.boolean().meta({ description: 'The month is over: nothing is added' }),
    currencies: z.array(
      z.strictObject({
        currency,
        openingMicros: shownMicros.meta({ description: 'Of its accounts and holds together, before the month' }),
        lines: z.array(Line).meta({ description: 'Their sum is closing less opening. Beyond 5,000 the smallest are one' }),
        closingMicros: shownMicros,
        heldMicros: shownMicros.meta({ description: 'What of closing is held for leases that go on' }),
      }),
    ),
  })
  .meta({ id: 'Statement', description: "An owner's money over a month" });

export const OfCurrency = z.strictObject({ currency });

export const BudgetOrder = z
  .strictObject({
    monthlyMicros: z
      .string()
      .regex(/^[1-9]\d{0,15}$/, { error: 'expected a whole number of micro-units above 0 as a text', abort: true })
      .refine((text) => BigInt(text) <= maxAmountMicros, { error: `expected at most ${maxAmountMicros} micro-units` })
      .meta({ description: 'For each month in UTC', example: '250000000' }),
    thresholds: z
      .array(z.int().min(1).max(1000))
      .min(1)
      .max(10)
      .refine((values) => new Set(values).size === values.length, { error: 'expected each threshold once' })
      .default([50, 80, 100])
      .meta({ description: 'Per cent at which an event tells it' }),
  })
  .meta({ id: 'BudgetOrder' });

export const Budget = z
  .strictObject({
    owner: z.string(),
    currency,
    monthlyMicros: shownMicros,
    thresholds: z.array(z.int()),
    month: z.string(),
    spentMicros: shownMicros.meta({ description: 'What was charged in the month' }),
  })
  .meta({ id: 'Budget', description: 'What an owner means to spend in a month; it refuses nothing' });
