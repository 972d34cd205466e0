import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { type FileRecord, requireDigest } from './file-record.ts';

/** A claim on an owner's quota: a file's row in state `uploading` with the bytes claimed so far. */
export interface QuotaClaim {
  fileId: string;
  ownerId: string;
  bytes: number;
  /** Bytes that this owner may keep, where its row says nothing. */
  quotaBytes: number;
}

/** The task of which a file is an output. */
export interface OutputParent {
  taskId: string;
  node: number;
  attempt: string | null;
}

/** Bytes that have arrived and are not yet the content of a file. */
export interface ReceivedContent {
  sizeBytes: number;
  sha256: string;
  /** Makes them the content of a file; durable when it returns. */
  commit(fileId: string): Promise<void>;
  /** Removes them again after `commit`. */
  remove(fileId: string): Promise<void>;
}

/**
 * Last in a transaction that changed files of the claim's owner. Each change of a file's row locks the owner's, whose
 * sum a trigger keeps: no two transactions can pass the limit together.
 */
export async function refuseOverQuota(
  tx: Transaction,
  { ownerId, quotaBytes }: Pick<QuotaClaim, 'ownerId' | 'quotaBytes'>,
): Promise<void> {
  const owner = await tx.owner.findUniqueOrThrow({ where: { id: ownerId }, select: { usedBytes: true, maxBytes: true } });
  const limit = owner.maxBytes ?? BigInt(quotaBytes);
  if (owner.usedBytes <= limit) return;
  throw new BerthError(
    'quota-exceeded',
    `This owner's quota is used up: its files and logs would have ${owner.usedBytes} bytes together, of at most ${limit}; delete files, or ask the operator for more`,
  );
}

/** Creates the claim's row. Throws quota-exceeded. */
export async function acceptUpload(ledger: Ledger, claim: QuotaClaim, name: string): Promise<void> {
  const { fileId, ownerId, bytes } = claim;
  const work = async (tx: Transaction): Promise<void> => {
    await tx.file.create({ data: { id: fileId, ownerId, name, state: 'uploading', sizeBytes: BigInt(bytes) } });
    await refuseOverQuota(tx, claim);
  };
  await inTransaction(ledger, work, requestLimits);
}

/**
 * Brings the claim's row to `claim.bytes`, and ahead of them by at most `aheadBytes`, so that not every chunk is a transaction.
 * At most half of what is free is claimed ahead: an upload that would fit is not refused for what another one may never send.
 * Throws quota-exceeded. Returns the bytes that are claimed.
 */
export async function changeUploadSize(ledger: Ledger, claim: QuotaClaim, aheadBytes: number): Promise<number> {
  const { fileId, ownerId, bytes, quotaBytes } = claim;
  const work = async (tx: Transaction): Promise<number> => {
    const set = (sizeBytes: number) =>
      tx.file.updateMany({ where: { id: fileId, state: 'uploading' }, data: { sizeBytes: BigInt(sizeBytes) } });
    await set(bytes);
    await refuseOverQuota(tx, claim);
    // The owner's row is locked by the update, so that this stays so until the commit.
    const owner = await tx.owner.findUniqueOrThrow({ where: { id: ownerId }, select: { usedBytes: true, maxBytes: true } });
    const free = Number((owner.maxBytes ?? BigInt(quotaBytes)) - owner.usedBytes);
    const ahead = Math.min(aheadBytes, Math.floor(free / 2));
    if (ahead > 0) await set(bytes + ahead);
    return bytes + ahead;
  };
  return inTransaction(ledger, work, requestLimits);
}

/**
 * Removes a claim. A file that became ready is not `uploading` any more and remains. Where the outcome of a commit is
 * unknown, this waits for its lock.
 */
export async function changeUploadCancelled(tx: Transaction, { fileId }: QuotaClaim): Promise<void> {
  await tx.file.deleteMany({ where: { id: fileId, state: 'uploading' } });
}

/** Turns the claim's row into the file. The bytes are committed first: a row never names bytes that do not exist. */
export async function commitFile(
  tx: Transaction,
  claim: QuotaClaim,
  content: ReceivedContent,
  parent: OutputParent | { imageId: string } | { ofTree: true } | null,
): Promise<FileRecord> {
  const { fileId } = claim;
  await content.commit(fileId);
  try {
    const { sizeBytes, sha256 } = content;
    const [row] = await tx.file.updateManyAndReturn({
      where: { id: fileId, state: 'uploading' },
      data: { state: 'ready', sizeBytes: BigInt(sizeBytes), sha256, ...parent },
    });
    if (!row) throw new BerthError('conflict', 'The upload took so long that it was given up; send it again');
    await refuseOverQuota(tx, claim);
    return requireDigest(row);
  } catch (error) {
    // This transaction will not commit. When a commit itself fails, its outcome is unknown, and the sweep decides later.
    await content.remove(fileId);
    throw error;
  }
}

/** Makes received bytes a file of the claim's owner, once for each idempotency key. */
export async function acceptFileOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  upload: { claim: QuotaClaim; content: ReceivedContent },
  answer: (file: FileRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => answer(await commitFile(tx, upload.claim, upload.content, null)));
}

/** The answer of an upload that was accepted before with the same key; conflict when it has expired since. */
export async function acceptFileAgain(ledger: Ledger, request: IdempotentRequest): Promise<Acceptance> {
  return acceptOnce(ledger, request, () => {
    throw new BerthError('conflict', 'The first answer to this Idempotency-Key has just expired; send the file again');
  });
}
