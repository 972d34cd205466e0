import { z } from 'zod';
import type { AccountId } from '../../model/ids.ts';
import type { PaidShares } from '../../model/money/charge.ts';
import { PriceTerms } from '../../model/money/price-terms.ts';
import type { Transaction } from '../transaction.ts';

/** A bill that has not ended. */
export interface BillRow {
  leaseId: string;
  ownerId: string;
  accountId: AccountId;
  currency: string;
  terms: PriceTerms;
  totalMicros: bigint | null;
  holdMicros: bigint;
  paid: PaidShares;
  uncollectedMicros: bigint;
  charges: number;
  /** Its lease has a fixed start, which was promised. */
  promised: boolean;
  dueAt: Date | null;
  warnedAt: Date | null;
  suspendedAt: Date | null;
  /** What is held for it. */
  heldMicros: bigint;
}

const micros = z.string().transform((text) => BigInt(text));
const Paid = z.strictObject({
  tax: micros.default(0n),
  site: micros.default(0n),
  providers: z.record(z.string(), micros).default({}),
});

/** As the row has it. */
export const storedPaid = ({ taxMicros, siteMicros, providerMicros }: PaidShares) => ({
  tax: String(taxMicros),
  site: String(siteMicros),
  providers: Object.fromEntries([...providerMicros].map(([name, amount]) => [name, String(amount)])),
});

interface StoredBill extends Omit<BillRow, 'paid' | 'terms'> {
  chargedMicros: bigint;
  paid: unknown;
  terms: unknown;
}

/** Locks the bill of a lease, and its hold, to the end of the transaction, before other accounts; null: it has none, or it has ended. */
export async function lockBill(tx: Transaction, lease: string): Promise<BillRow | null> {
  const rows = await tx.$queryRaw<StoredBill[]>`
    SELECT "leaseId", "ownerId", "accountId", currency, terms, "totalMicros", "holdMicros", "chargedMicros", "uncollectedMicros", paid,
      charges, "dueAt", "warnedAt", "suspendedAt", promised, "heldMicros" FROM berth_lock_bill(${lease})`;
  const [row] = rows;
  if (row === undefined) return null;
  const { tax, site, providers } = Paid.parse(row.paid);
  const paid = {
    buyerMicros: row.chargedMicros,
    taxMicros: tax,
    siteMicros: site,
    providerMicros: new Map(Object.entries(providers)),
  };
  return { ...row, terms: PriceTerms.parse(row.terms), paid };
}
