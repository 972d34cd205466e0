import type { Request, Response } from 'express';
import { z } from 'zod';
import { BerthError } from '../../model/errors.ts';
import { isTaskPath, taskLimits } from '../../model/task.ts';
import type { ApiDeps } from '../deps.ts';
import { requireDigest } from '../files/repository.ts';
import { sendBytes } from '../files/send-bytes.ts';
import { readUpload } from '../files/uploads.ts';
import type { Answer } from '../http/answer.ts';
import { json, streamed } from '../http/answer.ts';
import { type Operation, operation } from '../http/operation.ts';
import { sendProblem } from '../http/problem.ts';

/** Most that one call appends to a log, and most that a node's log holds here; the host's own limit is lower. */
const logChunkBytes = 64 * 2 ** 20;
const logBytes = 2 ** 30;

/** What the signature adds to each URL; it has been checked before validation. */
const signature = { expires: z.string(), signature: z.string() };
const Signed = z.strictObject(signature);

const Node = z.strictObject({
  taskId: z.string(),
  node: z.coerce
    .number()
    .int()
    .min(0)
    .max(taskLimits.nodes - 1),
});

const OutputQuery = z.strictObject({
  ...signature,
  path: z.string().refine(isTaskPath, { error: 'expected a relative path inside /home/task' }),
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/, { error: 'expected 64 lower-case hexadecimal digits' })
    .optional(),
});

const PartQuery = z.strictObject({ ...signature, path: z.enum(['disk']) });

const StoredFile = z.strictObject({ file: z.string(), sizeBytes: z.int(), sha256: z.string() });
const LogSize = z.strictObject({ sizeBytes: z.int() });

function contentRange(req: Request): { from: number; length: number } {
  const found = req.get('content-range');
  const match = /^bytes (\d{1,15})-(\d{1,15})\/\*$/.exec(found ?? '');
  const [from, to] = [Number(match?.[1]), Number(match?.[2])];
  const length = to - from + 1;
  if (match && length > 0 && Number(req.get('content-length')) === length) {
    if (length <= logChunkBytes && to < logBytes) return { from, length };
    throw new BerthError('too-large', `A call takes at most ${logChunkBytes} bytes, and a log holds at most ${logBytes}`);
  }
  throw new BerthError('bad-request', 'The Content-Range is not valid, or not that of a body with a Content-Length', {
    fields: [{ pointer: 'header.Content-Range', detail: `found ${found ?? 'nothing'}; expected bytes <from>-<to>/*` }],
  });
}

/** For host workers, by signed URL (model/signed-url.ts): what they read and write of the repository. */
export function internalRoutes({ ledger, repository }: ApiDeps): Operation[] {
  /** @param of the task, or the VM of a build, whose log it is */
  async function append(req: Request, res: Response, of: string, node: number): Promise<Answer | typeof streamed> {
    const { from } = contentRange(req);
    const { sizeBytes, gap } = await repository.logs.append(of, node, from, readUpload(req, res, undefined).body);
    if (!gap) return json(200, { sizeBytes });
    const error = new BerthError(
      'conflict',
      `Found ${sizeBytes} bytes; expected a range that starts there or before, not at ${from}`,
    );
    sendProblem(req, res, error, { sizeBytes });
    return streamed;
  }

  return [
    operation({
      method: 'get',
      path: '/internal/files/{id}',
      id: 'readFile',
      tag: 'internal',
      summary: 'Read a file',
      access: 'signed',
      params: z.strictObject({ id: z.string() }),
      query: Signed,
      answers: { 200: { description: 'The bytes', media: 'application/octet-stream' } },
      problems: ['not-found', 'range-not-satisfiable'],
      handle: async ({ req, res, params: { id } }) => {
        const row = await ledger.file.findFirst({ where: { id, state: 'ready' } });
        if (!row) throw new BerthError('not-found', `There is no file ${id}`);
        await sendBytes(req, res, repository.bytes, requireDigest(row));
        return streamed;
      },
    }),
    operation({
      method: 'post',
      path: '/internal/tasks/{taskId}/outputs/{node}',
      id: 'storeOutput',
      tag: 'internal',
      summary: 'Store an output; repeating it keeps the id of its file',
      access: 'signed',
      params: Node,
      query: OutputQuery,
      bytes: { description: 'The bytes' },
      answers: { 201: { description: 'Stored', schema: StoredFile } },
      problems: ['not-found', 'conflict', 'too-large', 'quota-exceeded', 'digest-mismatch', 'disk-full'],
      handle: async ({ req, res, params: { taskId, node }, query: { path, sha256 } }) => {
        const file = await repository.storeOutput({ ...readUpload(req, res, sha256), taskId, node, path });
        return json(201, { file: file.id, sizeBytes: Number(file.sizeBytes), sha256: file.sha256 });
      },
    }),
    operation({
      method: 'post',
      path: '/internal/images/{imageId}/builds/{vmId}/parts',
      id: 'storePart',
      tag: 'internal',
      summary: 'Store a part of an image; repeating it keeps the id of its file',
      access: 'signed',
      params: z.strictObject({ imageId: z.string(), vmId: z.string() }),
      query: PartQuery,
      bytes: { description: 'The bytes' },
      answers: { 201: { description: 'Stored', schema: StoredFile } },
      problems: ['not-found', 'conflict', 'too-large', 'quota-exceeded', 'digest-mismatch', 'disk-full'],
      handle: async ({ req, res, params: { imageId, vmId }, query: { path } }) => {
        const file = await repository.storePart({ ...readUpload(req, res, undefined), imageId, vmId, path });
        return json(201, { file: file.id, sizeBytes: Number(file.sizeBytes), sha256: file.sha256 });
      },
    }),
    operation({
      method: 'put',
      path: '/internal/images/{imageId}/builds/{vmId}/log',
      id: 'appendBuildLog',
      tag: 'internal',
      summary: "Append to a build's log; what is there already is left as it is",
      access: 'signed',
      params: z.strictObject({ imageId: z.string(), vmId: z.string() }),
      query: Signed,
      bytes: { description: 'The bytes that Content-Range names' },
      answers: { 200: { description: 'Appended', schema: LogSize } },
      problems: ['not-found', 'conflict', 'too-large', 'disk-full'],
      handle: async ({ req, res, params: { imageId, vmId } }) => {
        const image = await ledger.image.findFirst({ where: { id: imageId, buildVmId: vmId }, select: { id: true } });
        if (!image) throw new BerthError('not-found', `There is no build of ${imageId} in ${vmId}`);
        return append(req, res, vmId, 0);
      },
    }),
    operation({
      method: 'put',
      path: '/internal/tasks/{taskId}/log/{node}',
      id: 'appendLog',
      tag: 'internal',
      summary: 'Append to a log; what is there already is left as it is',
      access: 'signed',
      params: Node,
      query: Signed,
      bytes: { description: 'The bytes that Content-Range names' },
      answers: { 200: { description: 'Appended', schema: LogSize } },
      problems: ['not-found', 'conflict', 'too-large', 'disk-full'],
      handle: async ({ req, res, params: { taskId, node } }) => {
        const task = await ledger.task.findUnique({ where: { id: taskId }, select: { id: true } });
        if (!task) throw new BerthError('not-found', `There is no task ${taskId}`);
        return append(req, res, taskId, node);
      },
    }),
  ];
}
