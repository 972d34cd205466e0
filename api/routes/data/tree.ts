import type { Request, Response } from 'express';
import { z } from 'zod';
import { readPutRefusal } from '../../../ledger/tree/accept-file.ts';
import { acceptTreeActionOnce, type TreeAction } from '../../../ledger/tree/actions.ts';
import { changeEntry } from '../../../ledger/tree/change-entry.ts';
import type { TreeSite } from '../../../ledger/tree/entry-record.ts';
import { findEntry, readFolder, readInside, readPrefix } from '../../../ledger/tree/read-tree.ts';
import { changeEntryDeleted, findDeletion } from '../../../ledger/tree/trash.ts';
import { BerthError } from '../../../model/errors.ts';
import { taskFolder } from '../../../model/tree/path.ts';
import type { ApiDeps } from '../../deps.ts';
import { sendBytes } from '../../files/send-bytes.ts';
import { readUpload } from '../../files/uploads.ts';
import { type Answer, json, noContent, streamed } from '../../http/answer.ts';
import type { Caller } from '../../http/auth.ts';
import { idempotentPost } from '../../http/idempotency.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { pageOf } from '../../http/page.ts';
import { refuseUnstorable, validate } from '../../http/validation.ts';
import {
  DeleteQuery,
  Deletion,
  Entry,
  EntryChange,
  EntryQuery,
  Metadata,
  OfPath,
  PutQuery,
  TreeActionOrder,
  TreeQuery,
} from '../../schemas/data/tree.ts';
import { lastName, sendArchive } from '../../tree/archive.ts';
import { readPathPage } from '../../tree/path-page.ts';
import { readCondition } from '../../tree/read-condition.ts';
import { entryLocation, showDeletion, showEntry } from '../../tree/show-entry.ts';

/** What this site allows of a tree, now. */
export const treeSite = ({ config, clock }: Pick<ApiDeps, 'config' | 'clock'>): TreeSite => ({
  maxEntries: config.api.BERTH_MAX_ENTRIES_PER_OWNER,
  trashDays: config.api.BERTH_TRASH_DAYS,
  nowMs: clock(),
});

function parseMetadata(text: string): z.output<typeof Metadata> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new BerthError('bad-request', 'The metadata is not JSON', {
      fields: [{ pointer: 'query.metadata', detail: 'found no JSON; expected an object of texts' }],
    });
  }
  refuseUnstorable('query', value, ['metadata']);
  return validate(z.strictObject({ metadata: Metadata }), 'query', { metadata: value }).metadata;
}

/** Does what is asked of a caller's tree, and removes the bytes that are nobody's any more. */
export async function actOnTree(
  deps: Pick<ApiDeps, 'ledger' | 'repository' | 'config' | 'clock'>,
  caller: Caller,
  { key, route, action }: { key: string | null; route: string; action: TreeAction },
): Promise<Answer> {
  const { acceptance, removed } = await acceptTreeActionOnce(
    deps.ledger,
    idempotentPost(caller, key, route, action),
    { owner: caller.ownerId, action, site: treeSite(deps) },
    (entry) => json(201, showEntry(entry), entryLocation(entry.path)),
  );
  await deps.repository.removeContents(removed);
  return acceptance.answer;
}

export function treeRoutes(deps: ApiDeps): Operation[] {
  const { ledger, repository, log } = deps;

  async function put(req: Request, res: Response, { ownerId }: Caller, path: string, query: z.output<typeof PutQuery>) {
    const condition = readCondition(req);
    const metadata = parseMetadata(query.metadata);
    await readPutRefusal(ledger, { owner: ownerId, path, condition });
    const expiresAt = query.expiresAt === undefined ? null : new Date(query.expiresAt);
    const bytes = readUpload(req, res, query.sha256);
    const order = { ...bytes, owner: ownerId, path, condition, metadata, expiresAt };
    const { entry, created } = await repository.storeEntry(order, () => treeSite(deps));
    if (entry.file !== null) res.setHeader('ETag', `"${entry.file.sha256}"`);
    return json(created ? 201 : 200, showEntry(entry), created ? entryLocation(path) : null);
  }

  async function get(req: Request, res: Response, { ownerId }: Caller, path: string, query: z.output<typeof EntryQuery>) {
    const entry = await findEntry(ledger, ownerId, path);
    const { file } = entry;
    if (query.describe === '1') return json(200, showEntry(entry));
    if (query.archive === undefined) {
      if (file === null)
        throw new BerthError(
          'conflict',
          `The path ${path} is that of a folder; GET /v1/tree?folder= lists it, archive=tar fetches it`,
        );
      await sendBytes(req, res, repository.bytes, { ...file, name: lastName(path) });
      return streamed;
    }
    if (path === taskFolder) throw new BerthError('conflict', `${taskFolder} has the outputs of all tasks; fetch those of one`);
    await sendArchive(res, repository.bytes, entry, file === null ? readInside(ledger, ownerId, path) : readNothing());
    return streamed;
  }

  return [
    operation({
      method: 'get',
      path: '/v1/tree',
      id: 'listTree',
      tag: 'tree',
      summary: "List a folder of the caller's tree, or all below a prefix, by path",
      description: 'The root has the folder `tasks` with the outputs of tasks that have ended. See docs/data.md.',
      access: 'client',
      query: TreeQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Entry) } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller: { ownerId }, query: { folder, prefix, ...page } }) =>
        json(
          200,
          await readPathPage(
            page,
            (at) =>
              prefix === undefined ? readFolder(ledger, ownerId, folder ?? null, at) : readPrefix(ledger, ownerId, prefix, at),
            showEntry,
          ),
        ),
    }),
    operation({
      method: 'post',
      path: '/v1/tree',
      id: 'changeTree',
      tag: 'tree',
      summary: 'Make a folder; copy or move a file or a folder; give a file a path',
      description: 'A copy names the same files, so it takes no bytes. Each is done as a whole or not at all.',
      access: 'client',
      body: TreeActionOrder,
      answers: { 201: { description: 'What is there now', schema: Entry, headers: { Location: 'The entry' } } },
      problems: ['not-found', 'conflict', 'in-use', 'quota-exceeded'],
      handle: ({ caller, idempotencyKey: key, body: action }) => actOnTree(deps, caller, { key, route: '/v1/tree', action }),
    }),
    operation({
      method: 'get',
      path: '/v1/tree/{path}',
      id: 'getEntry',
      tag: 'tree',
      summary: 'Download a file by its path, describe an entry, or fetch a folder as a tar',
      description: 'With `Range`, `If-Range`, `If-None-Match`; the ETag is the SHA-256 of the bytes.',
      access: 'client',
      params: OfPath,
      query: EntryQuery,
      answers: {
        200: {
          description: 'The bytes; with `describe=1` the entry',
          schema: Entry,
          media: ['application/octet-stream', 'application/x-tar'],
          headers: { ETag: 'The SHA-256', 'Repr-Digest': 'RFC 9530' },
        },
        206: { description: 'The range', media: 'application/octet-stream', headers: { 'Content-Range': 'Which bytes' } },
        304: { description: 'Not changed' },
      },
      problems: ['not-found', 'conflict', 'range-not-satisfiable', 'precondition-failed'],
      handle: ({ req, res, caller, params: { path }, query }) => get(req, res, caller, path, query),
    }),
    operation({
      method: 'put',
      path: '/v1/tree/{path}',
      id: 'putEntry',
      tag: 'tree',
      summary: 'Store a file at a path, with the folders that it lies in',
      description:
        'The body is the bytes. What was there goes into the trash. With `If-None-Match: *` nothing is replaced, with `If-Match` only those bytes.',
      access: 'client',
      params: OfPath,
      query: PutQuery,
      bytes: { description: 'The bytes, of any media type but multipart' },
      answers: {
        200: { description: 'Replaced', schema: Entry, headers: { ETag: 'The SHA-256' } },
        201: {
          description: 'Stored, durable and visible',
          schema: Entry,
          headers: { ETag: 'The SHA-256', Location: 'The entry' },
        },
      },
      problems: [
        'conflict',
        'precondition-failed',
        'too-large',
        'quota-exceeded',
        'digest-mismatch',
        'unsupported-media-type',
        'disk-full',
      ],
      handle: ({ req, res, caller, params: { path }, query }) => put(req, res, caller, path, query),
    }),
    operation({
      method: 'patch',
      path: '/v1/tree/{path}',
      id: 'changeEntry',
      tag: 'tree',
      summary: "Change an entry's metadata, or when it is to be deleted",
      access: 'client',
      params: OfPath,
      body: EntryChange,
      answers: { 200: { description: 'The entry', schema: Entry } },
      problems: ['not-found', 'conflict', 'precondition-failed'],
      handle: async ({ req, caller, params: { path }, body: { metadata, expiresAt } }) => {
        const change = { metadata, expiresAt: typeof expiresAt === 'string' ? new Date(expiresAt) : expiresAt };
        const of = { owner: caller.ownerId, path, condition: readCondition(req) };
        const refuse = (whole: object) => void validate(z.strictObject({ metadata: Metadata }), 'body', { metadata: whole });
        return json(200, showEntry(await changeEntry(ledger, of, change, refuse)));
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/tree/{path}',
      id: 'deleteEntry',
      tag: 'tree',
      summary: 'Delete a file or a folder: into the trash, or for good',
      access: 'client',
      params: OfPath,
      query: DeleteQuery,
      answers: { 200: { description: 'In the trash', schema: Deletion }, 204: { description: 'Gone for good' } },
      problems: ['not-found', 'conflict', 'precondition-failed'],
      handle: async ({ req, caller: { ownerId: owner }, params: { path }, query }) => {
        const order = {
          owner,
          path,
          condition: readCondition(req),
          recursive: query.recursive === '1',
          purge: query.purge === '1',
        };
        const { deletion, removed } = await changeEntryDeleted(ledger, order, treeSite(deps));
        await repository.removeContents(removed);
        log.info({ path, owner, deletion }, 'entry deleted');
        return deletion === null ? noContent : json(200, showDeletion(await findDeletion(ledger, owner, deletion)));
      },
    }),
  ];
}

async function* readNothing(): AsyncIterable<never> {
  // An archive of one file.
}
