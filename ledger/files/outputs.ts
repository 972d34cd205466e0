import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { terminalTaskStates } from '../../model/states.ts';
import type { Ledger } from '../client.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { type FileRecord, requireDigest } from './file-record.ts';
import {
  changeUploadCancelled,
  commitFile,
  type OutputParent,
  type QuotaClaim,
  type ReceivedContent,
  refuseOverQuota,
} from './uploads.ts';

export interface TaskOutput {
  taskId: string;
  node: number;
  path: string;
  /** Of stageOut; null: its host has a version without. */
  attempt: string | null;
}

export interface ImagePart {
  imageId: string;
  /** The VM that builds it: only the image's newest build may store. */
  vmId: string;
  path: string;
}

export interface StoredContent {
  file: FileRecord;
  /** The digest of the content that was replaced, whose bytes nothing names any more; null: none was. */
  replaced: string | null;
}

/** Locks the task's row: no output arrives after the task's end has listed them. */
async function requireOpenTask(tx: Transaction, taskId: string): Promise<void> {
  const open = await tx.$queryRaw<{ id: string }[]>`
    SELECT "id" FROM "Task" WHERE "id" = ${taskId} AND "state"::text NOT IN (${Prisma.join(terminalTaskStates)}) FOR UPDATE`;
  if (open.length === 0) throw new BerthError('conflict', `The task ${taskId} is over; it takes no outputs any more`);
}

/** Locks the image's row: no part arrives after the build's end. */
async function requireOpenBuild(tx: Transaction, { imageId, vmId }: ImagePart): Promise<void> {
  const open = await tx.$queryRaw<{ id: string }[]>`
    SELECT "id" FROM "Image" WHERE "id" = ${imageId} AND "buildVmId" = ${vmId} AND "state" = 'building' FOR UPDATE`;
  if (open.length === 0)
    throw new BerthError('conflict', `The build of ${imageId} in ${vmId} is over; it takes no parts any more`);
}

/** What is stored again under the same name keeps the id of its file. */
async function replaceOrCommit(
  tx: Transaction,
  previous: FileRecord | null,
  parent: OutputParent | { imageId: string },
  claim: QuotaClaim,
  content: ReceivedContent,
): Promise<StoredContent> {
  if (previous === null) return { file: await commitFile(tx, claim, content, parent), replaced: null };
  const { sizeBytes, sha256 } = content;
  const attempt = 'attempt' in parent ? parent.attempt : null;
  if (previous.sha256 === sha256) {
    if (attempt !== null) await tx.file.update({ where: { id: previous.id }, data: { attempt } });
    return { file: previous, replaced: null };
  }
  await content.commit(previous.id);
  // The claim's bytes go and the new ones come in one transaction: the quota counts them once.
  await changeUploadCancelled(tx, claim);
  const file = await tx.file.update({ where: { id: previous.id }, data: { sizeBytes: BigInt(sizeBytes), sha256, attempt } });
  await refuseOverQuota(tx, claim);
  return { file: requireDigest(file), replaced: previous.sha256 };
}

/** Makes received bytes an output of a task. Repeated, also with other bytes, it keeps the file's id. */
export async function acceptOutput(
  ledger: Ledger,
  { taskId, node, path, attempt }: TaskOutput,
  claim: QuotaClaim,
  content: ReceivedContent,
): Promise<StoredContent> {
  const work = async (tx: Transaction): Promise<StoredContent> => {
    await requireOpenTask(tx, taskId);
    const row = await tx.file.findUnique({ where: { taskId_node_name: { taskId, node, name: path } } });
    return replaceOrCommit(tx, row === null ? null : requireDigest(row), { taskId, node, attempt }, claim, content);
  };
  return inTransaction(ledger, work, requestLimits);
}

/** Makes received bytes a part of an image from its build, in the same way. */
export async function acceptImagePart(
  ledger: Ledger,
  part: ImagePart,
  claim: QuotaClaim,
  content: ReceivedContent,
): Promise<StoredContent> {
  const { imageId, path } = part;
  const work = async (tx: Transaction): Promise<StoredContent> => {
    await requireOpenBuild(tx, part);
    const row = await tx.file.findUnique({ where: { imageId_name: { imageId, name: path } } });
    return replaceOrCommit(tx, row === null ? null : requireDigest(row), { imageId }, claim, content);
  };
  return inTransaction(ledger, work, requestLimits);
}
