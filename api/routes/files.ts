import type { Request, Response } from 'express';
import { z } from 'zod';
import type { FileRecord } from '../../ledger/files/file-record.ts';
import { findFile, readFiles } from '../../ledger/files/read-files.ts';
import type { ApiDeps } from '../deps.ts';
import { sendBytes } from '../files/send-bytes.ts';
import { readUpload } from '../files/uploads.ts';
import { json, noContent, streamed } from '../http/answer.ts';
import { type Caller, visibleOwner } from '../http/auth.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { Id, sha256 } from '../schemas/common.ts';
import { File } from '../schemas/files.ts';

const UploadQuery = z.strictObject({
  name: z
    .string({ error: 'expected a name' })
    .min(1)
    .max(512)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the expression refuses them
    .regex(/^[^\u0000-\u001f\u007f]*$/, { error: 'expected no control characters' })
    .meta({ description: 'What the file is called when it is downloaded' }),
  sha256: sha256.optional().meta({ description: 'Refuse the bytes unless this is their SHA-256' }),
});

function show(row: FileRecord): z.input<typeof File> {
  return {
    id: row.id,
    name: row.name,
    sizeBytes: Number(row.sizeBytes),
    sha256: row.sha256,
    owner: row.ownerId,
    createdAt: row.createdAt.toISOString(),
  };
}

export function fileRoutes({ ledger, repository, log }: ApiDeps): Operation[] {
  const find = (caller: Caller, id: string) => findFile(ledger, visibleOwner(caller), id);

  function upload(
    req: Request,
    res: Response,
    caller: Caller,
    query: z.output<typeof UploadQuery>,
    idempotencyKey: string | null,
  ) {
    return repository.upload(
      { ...readUpload(req, res, query.sha256), ownerId: caller.ownerId, name: query.name, idempotencyKey, route: '/v1/files' },
      (row) => json(201, show(row), `/v1/files/${row.id}`),
    );
  }

  return [
    operation({
      method: 'post',
      path: '/v1/files',
      id: 'createFile',
      tag: 'files',
      summary: 'Store a file',
      description: 'The body is the bytes. With `Repr-Digest`, `Content-Digest` or `?sha256=` they are checked on arrival.',
      access: 'client',
      query: UploadQuery,
      bytes: { description: 'The bytes, of any media type but multipart' },
      answers: { 201: { description: 'Stored, durable and visible', schema: File, headers: { Location: 'The file' } } },
      problems: ['too-large', 'quota-exceeded', 'digest-mismatch', 'unsupported-media-type', 'disk-full'],
      handle: ({ req, res, caller, query, idempotencyKey }) => upload(req, res, caller, query, idempotencyKey),
    }),
    operation({
      method: 'get',
      path: '/v1/files',
      id: 'listFiles',
      tag: 'files',
      summary: 'List files, newest first',
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(File) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const owner = visibleOwner(caller);
        return json(200, await readPage('files', query, (page) => readFiles(ledger, owner, page), show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/files/{id}',
      id: 'getFile',
      tag: 'files',
      summary: 'Describe a file',
      access: 'client',
      params: Id,
      answers: { 200: { description: 'The file', schema: File } },
      problems: ['not-found'],
      handle: async ({ caller, params }) => json(200, show(await find(caller, params.id))),
    }),
    operation({
      method: 'get',
      path: '/v1/files/{id}/content',
      id: 'getFileContent',
      tag: 'files',
      summary: 'Download a file',
      description: 'With `Range`, `If-Range`, `If-None-Match`; the ETag is the SHA-256 of the bytes.',
      access: 'client',
      params: Id,
      answers: {
        200: {
          description: 'The bytes',
          media: 'application/octet-stream',
          headers: { ETag: 'The SHA-256', 'Repr-Digest': 'RFC 9530' },
        },
        206: { description: 'The range', media: 'application/octet-stream', headers: { 'Content-Range': 'Which bytes' } },
        304: { description: 'Not changed' },
      },
      problems: ['not-found', 'range-not-satisfiable', 'precondition-failed'],
      handle: async ({ req, res, caller, params }) => {
        const file = await find(caller, params.id);
        await sendBytes(req, res, repository.bytes, file);
        return streamed;
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/files/{id}',
      id: 'deleteFile',
      tag: 'files',
      summary: 'Delete a file',
      description:
        'Downloads under way complete. A file that an image, a task that is not over, or a VM that is not set up yet needs is `in-use`.',
      access: 'client',
      params: Id,
      answers: { 204: { description: 'Deleted' } },
      problems: ['not-found', 'in-use'],
      handle: async ({ caller, params }) => {
        const file = await find(caller, params.id);
        await repository.remove(file);
        log.info({ fileId: file.id, owner: file.ownerId }, 'file deleted');
        return noContent;
      },
    }),
  ];
}
