import type { Ledger } from '../../ledger/client.ts';
import { ledgerError } from '../../ledger/ledger-error.ts';
import { BerthError } from '../../model/errors.ts';
import { type Transaction, transactionLimits } from '../http/idempotency.ts';

/** A claim on an owner's quota: a file's row in state `uploading` with the bytes claimed so far. */
export interface QuotaClaim {
  fileId: string;
  ownerId: string;
  bytes: number;
}

/** How owners' bytes are bounded. Each change of a file's row locks the owner's (a trigger keeps its sum): no race. */
export interface Quota {
  claim(claimed: QuotaClaim, name: string): Promise<void>;
  /** Brings the row to `claimed.bytes`. */
  grow(claimed: QuotaClaim): Promise<void>;
  /** Last in a transaction that changed files of this owner. */
  check(tx: Transaction, ownerId: string): Promise<void>;
}

/** @param quotaBytes for owners whose row says nothing */
export function openQuota(ledger: Ledger, quotaBytes: number): Quota {
  const exceeded = (why: string) =>
    new BerthError('quota-exceeded', `This owner's quota is used up: ${why}; delete files, or ask the operator for more`);

  async function check(tx: Transaction, ownerId: string): Promise<void> {
    const owner = await tx.owner.findUniqueOrThrow({ where: { id: ownerId }, select: { usedBytes: true, maxBytes: true } });
    const limit = owner.maxBytes ?? BigInt(quotaBytes);
    if (owner.usedBytes > limit) throw exceeded(`its files would have ${owner.usedBytes} bytes together, of at most ${limit}`);
  }

  async function inTransaction(act: (tx: Transaction) => Promise<void>): Promise<void> {
    try {
      await ledger.$transaction(act, transactionLimits);
    } catch (error) {
      // The ledger's own constraint says the same where the owner's row has a limit, and says it first.
      throw ledgerError(error) ?? error;
    }
  }

  return {
    check,

    claim: ({ fileId, ownerId, bytes }, name) =>
      inTransaction(async (tx) => {
        await tx.file.create({ data: { id: fileId, ownerId, name, state: 'uploading', sizeBytes: BigInt(bytes) } });
        await check(tx, ownerId);
      }),

    grow: ({ fileId, ownerId, bytes }) =>
      inTransaction(async (tx) => {
        await tx.file.updateMany({ where: { id: fileId, state: 'uploading' }, data: { sizeBytes: BigInt(bytes) } });
        await check(tx, ownerId);
      }),
  };
}
