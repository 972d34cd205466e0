import { z } from 'zod';

export const accountAdjustedType = 'berth.account.adjusted';

/** Amounts are micro-units as decimal strings. */
export const AccountAdjustedData = z
  .strictObject({
    account: z.string(),
    /** null: of a provider, of the site, or of taxes. */
    owner: z.string().nullable(),
    currency: z.string(),
    transfer: z.string(),
    amountMicros: z.string(),
    /** null: the account has no lower limit. */
    balanceMicros: z.string().nullable(),
    reason: z.string(),
    key: z.string(),
    at: z.iso.datetime(),
  })
  .meta({ id: 'AccountAdjusted', description: 'An operator has added to an account, or taken from it, by hand' });
