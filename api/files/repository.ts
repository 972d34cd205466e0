import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { Ledger } from '../../ledger/client.ts';
import { changeFileDeleted } from '../../ledger/files/delete-file.ts';
import type { FileRecord } from '../../ledger/files/file-record.ts';
import { changeLogSize, readLogCut } from '../../ledger/files/logs.ts';
import {
  acceptImagePart,
  acceptOutput,
  type ImagePart,
  type StoredContent,
  type TaskOutput,
} from '../../ledger/files/outputs.ts';
import { findOwnFile } from '../../ledger/files/read-files.ts';
import {
  acceptFileAgain,
  acceptFileOnce,
  acceptUpload,
  changeUploadCancelled,
  changeUploadSize,
  type QuotaClaim,
  type ReceivedContent,
} from '../../ledger/files/uploads.ts';
import { findIdempotencyKey, type IdempotentRequest } from '../../ledger/idempotency.ts';
import { findBuildOwner } from '../../ledger/images/read-images.ts';
import { findTaskOwner } from '../../ledger/tasks/read-tasks.ts';
import { acceptEntryFile, type EntryPut, type StoredEntry } from '../../ledger/tree/accept-file.ts';
import type { TreeSite } from '../../ledger/tree/entry-record.ts';
import type { RemovedContent } from '../../ledger/tree/unnamed-files.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import type { Answer } from '../http/answer.ts';
import { fingerprint } from '../http/idempotency.ts';
import { type ByteStore, openByteStore, type Received } from './byte-store.ts';
import { openQuarantine, type Quarantine } from './quarantine.ts';
import { openTaskLogs, type TaskLogs } from './task-logs.ts';
import type { IncomingBytes } from './uploads.ts';

interface Upload extends IncomingBytes {
  ownerId: string;
  name: string;
  idempotencyKey: string | null;
  /** Path of the request: a key names one request of one path. */
  route: string;
}

/** Bytes of a log of a task's node, or of a build's VM. */
interface LogPiece {
  holderId: string;
  node: number;
  /** null: the site's own, which has no quota. */
  ownerId: string | null;
  from: number;
  length: number;
  body: AsyncIterable<Uint8Array>;
}

/** Files with owners: bytes on disk, rows in the ledger. A file is visible when both are durable, never before. */
export interface Repository {
  readonly root: string;
  readonly bytes: ByteStore;
  readonly logs: TaskLogs;
  readonly quarantine: Quarantine;
  /** Receives a caller's file, once for each idempotency key, and answers with what `answer` makes of its row. */
  upload(upload: Upload, answer: (file: FileRecord) => Answer): Promise<Answer>;
  /** Receives the file of a path. @param site what is allowed when the bytes have arrived */
  storeEntry(put: EntryPut & IncomingBytes, site: () => TreeSite): Promise<StoredEntry>;
  /** Receives an output of a task. Repeating it, also with other bytes, keeps the file's id. */
  storeOutput(output: TaskOutput & IncomingBytes): Promise<FileRecord>;
  /** Receives a part of an image from its build, in the same way. */
  storePart(part: ImagePart & IncomingBytes): Promise<FileRecord>;
  /** Appends to a log, within its owner's quota: what is above it is dropped, and the log says so at its end. */
  appendLog(log: LogPiece): Promise<{ sizeBytes: number; gap: boolean }>;
  /** The first bytes of an owner's file; null when there is no such file. */
  readHead(ownerId: string, fileId: string, length: number): Promise<Buffer | null>;
  /** Removes a file that nothing uses; `in-use` otherwise. */
  remove(file: FileRecord): Promise<void>;
  /** Removes the bytes of files whose rows are gone. */
  removeContents(contents: readonly RemovedContent[]): Promise<void>;
}

interface RepositoryDeps {
  /** Folder of the bytes; API processes may share it. */
  root: string;
  ledger: Ledger;
  maxFileBytes: number;
  /** Bytes an owner may keep, where its row says nothing. */
  quotaBytes: number;
}

/** Ends a log above its owner's quota; it is not counted. */
const quotaNotice = Buffer.from("\n[berth: output after this was not kept: its owner's quota of stored bytes is used up]\n");

/** An upload that does not announce its size claims quota in steps of this size as it grows. */
const claimStepBytes = 16 * 2 ** 20;

function refuseMismatch(received: Received, incoming: IncomingBytes): void {
  const { announcedBytes, expectedSha256 } = incoming;
  if (announcedBytes !== null && received.sizeBytes !== announcedBytes)
    throw new BerthError('bad-request', `Found ${received.sizeBytes} bytes; Content-Length says ${announcedBytes}`);
  if (expectedSha256 !== null && received.sha256 !== expectedSha256)
    throw new BerthError('digest-mismatch', `Found SHA-256 ${received.sha256}; expected ${expectedSha256}. Nothing was kept`);
}

export async function openRepository({ root, ledger, maxFileBytes, quotaBytes }: RepositoryDeps): Promise<Repository> {
  const bytes = await openByteStore(root);
  const logs = await openTaskLogs(root);

  function refuseTooLarge(size: number): void {
    if (size <= maxFileBytes) return;
    throw new BerthError('too-large', `Found ${size} bytes or more; a file has at most ${maxFileBytes}`);
  }

  const contentOf = (received: Received): ReceivedContent => ({
    sizeBytes: received.sizeBytes,
    sha256: received.sha256,
    commit: (fileId) => bytes.commit(received, fileId),
    remove: (fileId) => bytes.remove(fileId, received.sha256),
  });

  /**
   * Claims quota, receives the bytes, and passes them to `commit`, which makes them a file. Whatever fails, neither the
   * row nor partial bytes remain; after a crash of this process the sweep removes them (workers/sweep/repository-sweep.ts).
   */
  async function receive<T>(
    ownerId: string,
    name: string,
    incoming: IncomingBytes,
    commit: (claim: QuotaClaim, content: ReceivedContent) => Promise<T>,
  ): Promise<T> {
    refuseTooLarge(incoming.announcedBytes ?? 0);
    const claim: QuotaClaim = { fileId: newId('file'), ownerId, bytes: incoming.announcedBytes ?? 0, quotaBytes };
    await acceptUpload(ledger, claim, name);
    try {
      const received = await bytes.receive(claim.fileId, incoming.body, async (total) => {
        refuseTooLarge(total);
        if (total <= claim.bytes) return;
        const ahead = Math.min(claimStepBytes, maxFileBytes - total);
        claim.bytes = await changeUploadSize(ledger, { ...claim, bytes: total }, ahead);
      });
      try {
        refuseMismatch(received, incoming);
        return await commit(claim, contentOf(received));
      } finally {
        await bytes.discard(received);
      }
    } finally {
      await changeUploadCancelled(ledger, claim);
    }
  }

  /** After the commit: a crash in between leaves bytes that no row names, which the sweep removes. */
  async function removeReplaced({ file, replaced }: StoredContent): Promise<FileRecord> {
    if (replaced !== null) await bytes.remove(file.id, replaced);
    return file;
  }

  async function removeContents(contents: readonly RemovedContent[]): Promise<void> {
    for (const { fileId, sha256 } of contents) await bytes.remove(fileId, sha256);
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
    quarantine: openQuarantine(root),

    async upload(upload, answer) {
      const { ownerId, name, idempotencyKey: key } = upload;
      const requestOf = (sha256: string): IdempotentRequest => ({
        ownerId,
        key,
        method: 'POST',
        path: upload.route,
        fingerprint: fingerprint(name, sha256),
      });
      if (await findIdempotencyKey(ledger, ownerId, key))
        return (await acceptFileAgain(ledger, requestOf(await hashBody(upload.body)))).answer;
      return receive(ownerId, name, upload, async (claim, content) => {
        const accepted = await acceptFileOnce(ledger, requestOf(content.sha256), { claim, content }, answer);
        return accepted.answer;
      });
    },

    removeContents,

    async storeEntry(put, site) {
      const name = put.path.slice(put.path.lastIndexOf('/') + 1);
      const stored = await receive(put.owner, name, put, (claim, content) =>
        acceptEntryFile(ledger, put, { claim, content }, site()),
      );
      await removeContents(stored.removed);
      return stored;
    },

    async storeOutput(output) {
      const owner = await findTaskOwner(ledger, output.taskId);
      return receive(owner, output.path, output, async (claim, content) =>
        removeReplaced(await acceptOutput(ledger, output, claim, content)),
      );
    },

    async appendLog({ holderId, node, ownerId, from, length, body }) {
      const append = (at: number, source: AsyncIterable<Uint8Array>) => logs.append(holderId, node, at, source);
      if (ownerId === null) return append(from, body);
      const sizeBytes = await logs.size(holderId, node);
      const growth = { holderId, node, ownerId, fromBytes: sizeBytes, toBytes: from + length, quotaBytes };
      const gap = from > sizeBytes;
      const cut = gap ? await readLogCut(ledger, growth) : await changeLogSize(ledger, growth);
      if (cut === null) return gap ? { sizeBytes, gap } : append(from, body);
      // Each time, because a crash may have come between the ledger and the file. The host goes on as if all were kept: to it, a
      // log that is refused is one to try again.
      await append(cut, Readable.from([quotaNotice]));
      for await (const _ of body);
      return { sizeBytes: from + length, gap: false };
    },

    async storePart(part) {
      const owner = await findBuildOwner(ledger, part.imageId);
      return receive(owner, part.path, part, async (claim, content) =>
        removeReplaced(await acceptImagePart(ledger, part, claim, content)),
      );
    },

    async readHead(ownerId, fileId, length) {
      const { sha256 } = (await findOwnFile(ledger, ownerId, fileId)) ?? {};
      return sha256 === undefined ? null : bytes.head(fileId, sha256, length);
    },

    async remove(file) {
      await changeFileDeleted(ledger, file.id);
      // After the commit: a crash in between leaves bytes that no row names, which the sweep removes.
      await bytes.remove(file.id, file.sha256);
    },
  };
}
