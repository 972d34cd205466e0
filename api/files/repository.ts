import { createHash } from 'node:crypto';
import { Prisma } from '../../generated/prisma/client.ts';
import type { Ledger } from '../../ledger/client.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import { terminalTaskStates } from '../../model/states.ts';
import type { Answer } from '../http/answer.ts';
import {
  fingerprint,
  type IdempotentRequest,
  isKeyUsed,
  runOnce,
  type Transaction,
  transactionLimits,
} from '../http/idempotency.ts';
import { type ByteStore, openByteStore, type Received } from './byte-store.ts';
import { openQuota, type QuotaClaim } from './quota.ts';
import { openTaskLogs, type TaskLogs } from './task-logs.ts';

/** A file that is ready. */
export interface FileRow {
  id: string;
  ownerId: string;
  name: string;
  sizeBytes: bigint;
  sha256: string;
  createdAt: Date;
}

interface Incoming {
  /** From Content-Length; null when the body comes in chunks. */
  announcedBytes: number | null;
  /** What the sender says that the bytes' SHA-256 is, in hexadecimal. */
  expectedSha256: string | null;
  body: AsyncIterable<Uint8Array>;
}

export interface Upload extends Incoming {
  ownerId: string;
  name: string;
  idempotencyKey: string | null;
  /** Of the request: a key is good for one. */
  route: string;
}

export interface OutputUpload extends Incoming {
  taskId: string;
  node: number;
  path: string;
}

export interface PartUpload extends Incoming {
  imageId: string;
  /** The VM that builds it: only its newest build may store. */
  vmId: string;
  path: string;
}

/** Files with owners: bytes on disk, rows in the ledger. A file is visible when both are durable, never before. */
export interface Repository {
  readonly root: string;
  readonly bytes: ByteStore;
  readonly logs: TaskLogs;
  /** Receives a caller's file, once for each idempotency key, and answers with what `answer` makes of its row. */
  upload(upload: Upload, answer: (file: FileRow) => Answer): Promise<Answer>;
  /** Receives an output of a task. Repeating it, also with other bytes, keeps the file's id. */
  storeOutput(output: OutputUpload): Promise<FileRow>;
  /** Receives a part of an image from its build, in the same way. */
  storePart(part: PartUpload): Promise<FileRow>;
  /** Removes a file that nothing uses; `in-use` otherwise. */
  remove(file: FileRow): Promise<void>;
}

export interface RepositoryDeps {
  /** Folder of the bytes; API processes may share it. */
  root: string;
  ledger: Ledger;
  maxFileBytes: number;
  /** Bytes an owner may keep, where its row says nothing. */
  quotaBytes: number;
}

/** An upload that doesn't say its size claims quota in steps of this size as it grows. */
const claimStepBytes = 16 * 2 ** 20;

export function requireDigest<T extends { id: string; sha256: string | null }>(row: T): T & { sha256: string } {
  const { sha256 } = row;
  if (sha256 === null) throw new BerthError('internal', `BUG: the file ${row.id} is ready and has no digest`);
  return { ...row, sha256 };
}

/** A file is in use as a part of an image, in the recipe of one that is built, as an input of a task that is not over, or as such a task's output. */
async function refuseUsed(tx: Transaction, fileId: string): Promise<void> {
  const over = Prisma.join(terminalTaskStates);
  const users = await tx.$queryRaw<{ user: string }[]>`
    SELECT 'image ' || "name" AS "user" FROM "Image"
      WHERE "state" IN ('building', 'ready')
        AND (${fileId} IN ("parts"->'disk'->>'file', "parts"->'kernel'->>'file', "parts"->'initrd'->>'file')
             OR "id" = (SELECT "imageId" FROM "File" WHERE "id" = ${fileId})
             OR "state" = 'building' AND ("recipe"->'base'->>'file' = ${fileId}
               OR "recipe"->'files' @> jsonb_build_array(jsonb_build_object('file', ${fileId}::text))))
    UNION ALL
    SELECT 'task ' || "id" FROM "Task"
      WHERE "state"::text NOT IN (${over})
        AND ("spec"->'inputs' @> jsonb_build_array(jsonb_build_object('file', ${fileId}::text))
             OR "id" = (SELECT "taskId" FROM "File" WHERE "id" = ${fileId}))
    LIMIT 1`;
  if (users[0]) throw new BerthError('in-use', `The file ${fileId} is in use by ${users[0].user}`);
}

/** Locks the task's row: no output arrives after the task's end has listed them. */
async function requireOpenTask(tx: Transaction, taskId: string): Promise<void> {
  const open = await tx.$queryRaw<{ id: string }[]>`
    SELECT "id" FROM "Task" WHERE "id" = ${taskId} AND "state"::text NOT IN (${Prisma.join(terminalTaskStates)}) FOR UPDATE`;
  if (open.length === 0) throw new BerthError('conflict', `The task ${taskId} is over; it takes no outputs any more`);
}

/** Locks the image's row: no part arrives after the build's end. */
async function requireOpenBuild(tx: Transaction, { imageId, vmId }: PartUpload): Promise<void> {
  const open = await tx.$queryRaw<{ id: string }[]>`
    SELECT "id" FROM "Image" WHERE "id" = ${imageId} AND "buildVmId" = ${vmId} AND "state" = 'building' FOR UPDATE`;
  if (open.length === 0)
    throw new BerthError('conflict', `The build of ${imageId} in ${vmId} is over; it takes no parts any more`);
}

export async function openRepository({ root, ledger, maxFileBytes, quotaBytes }: RepositoryDeps): Promise<Repository> {
  const bytes = await openByteStore(root);
  const logs = await openTaskLogs(root);
  const quota = openQuota(ledger, quotaBytes);

  function refuseTooLarge(size: number): void {
    if (size <= maxFileBytes) return;
    throw new BerthError('too-large', `Found ${size} bytes or more; a file has at most ${maxFileBytes}`);
  }

  function refuseMismatch(received: Received, incoming: Incoming): void {
    const { announcedBytes, expectedSha256 } = incoming;
    if (announcedBytes !== null && received.sizeBytes !== announcedBytes)
      throw new BerthError('bad-request', `Found ${received.sizeBytes} bytes; Content-Length says ${announcedBytes}`);
    if (expectedSha256 !== null && received.sha256 !== expectedSha256)
      throw new BerthError('digest-mismatch', `Found SHA-256 ${received.sha256}; expected ${expectedSha256}. Nothing was kept`);
  }

  /**
   * Claims, receives, and hands over to `commit`, which makes the bytes a file. Whatever fails, neither row nor
   * partial bytes stay; when this process dies, the sweep removes them (api/files/repository-sweep.ts).
   */
  async function transfer<T>(
    ownerId: string,
    name: string,
    incoming: Incoming,
    commit: (received: Received, claimed: QuotaClaim) => Promise<T>,
  ): Promise<T> {
    refuseTooLarge(incoming.announcedBytes ?? 0);
    const claimed: QuotaClaim = { fileId: newId('file'), ownerId, bytes: incoming.announcedBytes ?? 0 };
    await quota.claim(claimed, name);
    try {
      const received = await bytes.receive(claimed.fileId, incoming.body, async (total) => {
        refuseTooLarge(total);
        if (total <= claimed.bytes) return;
        claimed.bytes = Math.min(total + claimStepBytes, maxFileBytes);
        await quota.grow(claimed);
      });
      try {
        refuseMismatch(received, incoming);
        return await commit(received, claimed);
      } finally {
        await bytes.discard(received);
      }
    } finally {
      // A file that became ready is not `uploading` any more. Where a commit's fate is unknown, this waits for its lock.
      await ledger.file.deleteMany({ where: { id: claimed.fileId, state: 'uploading' } });
    }
  }

  /** Turns the claim's row into the file. The bytes get their name first: a row never speaks of bytes that aren't there. */
  async function commitFile(
    tx: Transaction,
    { fileId, ownerId }: QuotaClaim,
    received: Received,
    of: { taskId: string; node: number } | { imageId: string } | null,
  ): Promise<FileRow> {
    await bytes.commit(received, fileId);
    try {
      const { sizeBytes, sha256 } = received;
      const [row] = await tx.file.updateManyAndReturn({
        where: { id: fileId, state: 'uploading' },
        data: { state: 'ready', sizeBytes: BigInt(sizeBytes), sha256, ...of },
      });
      if (!row) throw new BerthError('conflict', 'The upload took so long that it was given up; send it again');
      await quota.check(tx, ownerId);
      return requireDigest(row);
    } catch (error) {
      // This transaction will not commit. (When a commit itself fails, its fate is unknown: the sweep decides later.)
      await bytes.remove(fileId, received.sha256);
      throw error;
    }
  }

  /** What is stored again under the same name keeps the id of its file. */
  async function replaceOrCommit(
    tx: Transaction,
    before: FileRow | null,
    of: { taskId: string; node: number } | { imageId: string },
    received: Received,
    claimed: QuotaClaim,
  ): Promise<{ file: FileRow; replaced: string | null }> {
    if (before === null) return { file: await commitFile(tx, claimed, received, of), replaced: null };
    const { sizeBytes, sha256 } = received;
    if (before.sha256 === sha256) return { file: before, replaced: null };
    await bytes.commit(received, before.id);
    // The claim's bytes go and the new ones come in one transaction: the quota sees them once.
    await tx.file.deleteMany({ where: { id: claimed.fileId, state: 'uploading' } });
    const file = await tx.file.update({ where: { id: before.id }, data: { sizeBytes: BigInt(sizeBytes), sha256 } });
    await quota.check(tx, claimed.ownerId);
    return { file: requireDigest(file), replaced: before.sha256 };
  }

  async function commitOutput(tx: Transaction, { taskId, node, path }: OutputUpload, received: Received, claimed: QuotaClaim) {
    await requireOpenTask(tx, taskId);
    const row = await tx.file.findUnique({ where: { taskId_node_name: { taskId, node, name: path } } });
    return replaceOrCommit(tx, row === null ? null : requireDigest(row), { taskId, node }, received, claimed);
  }

  async function commitPart(tx: Transaction, part: PartUpload, received: Received, claimed: QuotaClaim) {
    await requireOpenBuild(tx, part);
    const { imageId, path } = part;
    const row = await tx.file.findUnique({ where: { imageId_name: { imageId, name: path } } });
    return replaceOrCommit(tx, row === null ? null : requireDigest(row), { imageId }, received, claimed);
  }

  /** Of an upload that was answered before: nothing is claimed or kept, the bytes are only compared. */
  async function hashBody(body: AsyncIterable<Uint8Array>): Promise<string> {
    const hash = createHash('sha256');
    let total = 0;
    for await (const chunk of body) {
      total += chunk.length;
      refuseTooLarge(total);
      hash.update(chunk);
    }
    return hash.digest('hex');
  }

  return {
    root,
    bytes,
    logs,

    async upload(upload, answer) {
      const { ownerId, name, idempotencyKey: key } = upload;
      const named = (sha256: string): IdempotentRequest => ({
        ownerId,
        key,
        method: 'POST',
        path: upload.route,
        fingerprint: fingerprint(name, sha256),
      });
      if (await isKeyUsed(ledger, ownerId, key)) {
        const again = await runOnce(ledger, named(await hashBody(upload.body)), () => {
          throw new BerthError('conflict', 'The first answer to this Idempotency-Key has just expired; send the file again');
        });
        return again.answer;
      }
      return transfer(ownerId, name, upload, async (received, claimed) => {
        const { answer: given } = await runOnce(ledger, named(received.sha256), async (tx) =>
          answer(await commitFile(tx, claimed, received, null)),
        );
        return given;
      });
    },

    async storeOutput(output) {
      const task = await ledger.task.findUnique({ where: { id: output.taskId }, select: { ownerId: true } });
      if (!task) throw new BerthError('not-found', `There is no task ${output.taskId}`);
      return transfer(task.ownerId, output.path, output, async (received, claimed) => {
        const { file, replaced } = await ledger.$transaction(
          (tx) => commitOutput(tx, output, received, claimed),
          transactionLimits,
        );
        if (replaced !== null) await bytes.remove(file.id, replaced);
        return file;
      });
    },

    async storePart(part) {
      const image = await ledger.image.findUnique({ where: { id: part.imageId }, select: { ownerId: true } });
      if (!image?.ownerId) throw new BerthError('not-found', `There is no build of an image ${part.imageId}`);
      return transfer(image.ownerId, part.path, part, async (received, claimed) => {
        const { file, replaced } = await ledger.$transaction((tx) => commitPart(tx, part, received, claimed), transactionLimits);
        if (replaced !== null) await bytes.remove(file.id, replaced);
        return file;
      });
    },

    async remove(file) {
      await ledger.$transaction(async (tx) => {
        const locked = await tx.$queryRaw<{ id: string }[]>`
          SELECT "id" FROM "File" WHERE "id" = ${file.id} AND "state" = 'ready' FOR UPDATE`;
        if (locked.length === 0) throw new BerthError('not-found', `There is no file ${file.id}`);
        await refuseUsed(tx, file.id);
        await tx.file.delete({ where: { id: file.id } });
      }, transactionLimits);
      // After the commit: a crash in between leaves bytes without a row, which the sweep removes.
      await bytes.remove(file.id, file.sha256);
    },
  };
}
