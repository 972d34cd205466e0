import { maxAmountMicros } from '../../model/books/money.ts';
import { BerthError } from '../../model/errors.ts';

/** Throws amount-out-of-bounds for what no posting can hold, before a column of the ledger refuses it. */
export function boundedAmount(amountMicros: bigint): bigint {
  if (amountMicros > maxAmountMicros)
    throw new BerthError(
      'amount-out-of-bounds',
      `It could cost ${amountMicros} micro-units; at most ${maxAmountMicros} can be held`,
    );
  return amountMicros;
}
