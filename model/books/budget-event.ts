import { z } from 'zod';

export const budgetReachedType = 'berth.budget.reached';

/** Amounts are micro-units as decimal strings. */
export const BudgetReachedData = z
  .strictObject({
    owner: z.string(),
    currency: z.string(),
    /** YYYY-MM, in UTC. */
    month: z.string(),
    percent: z.int(),
    monthlyMicros: z.string(),
    spentMicros: z.string(),
    at: z.iso.datetime(),
  })
  .meta({ id: 'BudgetReached', description: 'What was charged in the month has reached so much of the budget' });
