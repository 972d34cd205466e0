import { z } from 'zod';

/** What owners and billing hear of the money of a lease. */
export const billEventTypes = {
  settled: 'berth.bill.settled',
  warned: 'berth.bill.warned',
  cleared: 'berth.bill.cleared',
  suspended: 'berth.bill.suspended',
  removed: 'berth.bill.removed',
} as const;

export type BillEventType = (typeof billEventTypes)[keyof typeof billEventTypes];

const time = z.iso.datetime();

/** Amounts are micro-units as decimal strings. */
export const BillData = z
  .strictObject({
    lease: z.string(),
    owner: z.string(),
    account: z.string(),
    currency: z.string(),
    /** null: the lease has no end. */
    totalMicros: z.string().nullable(),
    chargedMicros: z.string(),
    heldMicros: z.string(),
    uncollectedMicros: z.string(),
    /** Of `warned`: when its VM is suspended, or its task cancelled, without money; of `suspended`: when its VM is removed. */
    until: time.nullable(),
    at: time,
  })
  .meta({
    id: 'BillEvent',
    description:
      'How the money of a lease goes: settled when it has ended; warned, suspended and removed where the account cannot fill its hold, cleared when it can again',
  });
