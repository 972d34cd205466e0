import type { Request, Response } from 'express';
import { z } from 'zod';
import { fetchedSteps } from '../../contracts/host-calls.ts';
import { findFile } from '../../ledger/files/read-files.ts';
import { readMachines } from '../../ledger/hosts/read-machines.ts';
import { findBuild } from '../../ledger/images/read-images.ts';
import { readFetchedStepArgs } from '../../ledger/tasks/fetched-step-args.ts';
import { findTaskOwner } from '../../ledger/tasks/read-tasks.ts';
import { BerthError } from '../../model/errors.ts';
import { isOutputPath } from '../../model/outputs/names.ts';
import { taskLimits } from '../../model/task.ts';
import type { ApiDeps } from '../deps.ts';
import { sendBytes } from '../files/send-bytes.ts';
import { readUpload } from '../files/uploads.ts';
import { type Answer, json, streamed } from '../http/answer.ts';
import { contentRange } from '../http/content-range.ts';
import { type Operation, operation } from '../http/operation.ts';
import { sendProblem } from '../http/problem.ts';
import { Id, sha256 } from '../schemas/common.ts';

/** The query parameters of a signed URL; the signature is verified before validation. */
const signature = { expires: z.string(), key: z.string().optional(), signature: z.string() };
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
  path: z.string().refine(isOutputPath, { error: 'expected a path of escaped names inside /home/task' }),
  sha256: sha256.optional(),
});

const PartQuery = z.strictObject({ ...signature, path: z.enum(['disk']) });

/** Which VM, and of which placement: of another one the host would act on what is not its any more. */
const OrdersOf = z.strictObject({
  hostId: z.string().max(63),
  vmId: z.string().max(64),
  generation: z.coerce.number().int().min(0),
});
const version = z.string().max(64);
const OrdersFor = z.strictObject({
  step: z.enum(fetchedSteps),
  hosts: version.describe('The version of the list of machines that this host has'),
});
/** As contracts/host-calls.ts has it: of the site's own parts. */
const Machines = z.strictObject({
  version,
  addresses: z.array(z.string()).nullable().describe('Of all hosts and edges; null: the host has this version'),
  here: z.string().describe("The host's own address"),
  load: z
    .strictObject({ heartbeatS: z.int(), asksForHelp: z.boolean() })
    .optional()
    .describe('What the host does about its load'),
});
const Orders = z.looseObject({ vm: z.looseObject({ id: z.string(), generation: z.int() }), hosts: Machines });
const MachinesOf = z.strictObject({ hostId: z.string().max(63) });
const MachinesSince = z.strictObject({ known: version.describe('The version that this host has; `none` at first') });

const StoredFile = z.strictObject({ file: z.string(), sizeBytes: z.int(), sha256 });
const LogSize = z.strictObject({ sizeBytes: z.int() });

/** Which attempt of its host stores an output. */
function attemptOf(req: Pick<Request, 'get'>): string | null {
  const found = req.get('berth-attempt');
  if (found === undefined) return null;
  if (attemptPattern.test(found)) return found;
  throw new BerthError('bad-request', 'Berth-Attempt is not valid: expected at most 64 letters, digits and hyphens');
}
const attemptPattern = /^[0-9A-Za-z-]{1,64}$/;

/** Routes by which host workers read and write the repository, with signed URLs (model/signed-url.ts). */
export function internalRoutes({ ledger, repository, config, clock }: ApiDeps): Operation[] {
  async function append(
    req: Request,
    res: Response,
    log: { holderId: string; node: number; ownerId: string | null },
  ): Promise<Answer | typeof streamed> {
    const { from, length } = contentRange(req);
    const { body } = readUpload(req, res, undefined);
    const { sizeBytes, gap } = await repository.appendLog({ ...log, from, length, body });
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
      path: '/internal/hosts/{hostId}/orders/{vmId}/{generation}',
      id: 'readOrders',
      tag: 'internal',
      summary: 'What a host needs for a step on one of its VMs; with its own key',
      access: 'host',
      params: OrdersOf,
      query: OrdersFor,
      answers: { 200: { description: 'The VM, and what belongs to the step', schema: Orders } },
      problems: ['not-found', 'stale-generation', 'conflict', 'input-unavailable'],
      handle: async ({ params: { hostId, vmId, generation }, query: { step, hosts } }) => {
        const { signing } = config;
        const query = { host: hostId, vm: vmId, generation, step };
        const args = await readFetchedStepArgs({ ledger, signing, clock }, query);
        return json(200, { ...args, hosts: await readMachines(ledger, hostId, hosts) });
      },
    }),
    operation({
      method: 'get',
      path: '/internal/hosts/{hostId}/machines',
      id: 'readMachines',
      tag: 'internal',
      summary: "The addresses to which owners' networks on a host flood; with its own key",
      access: 'host',
      params: MachinesOf,
      query: MachinesSince,
      answers: { 200: { description: 'The list, where it has changed', schema: Machines } },
      problems: ['not-found'],
      handle: async ({ params: { hostId }, query: { known } }) => json(200, await readMachines(ledger, hostId, known)),
    }),
    operation({
      method: 'get',
      path: '/internal/files/{id}',
      id: 'readFile',
      tag: 'internal',
      summary: 'Read a file',
      access: 'signed',
      params: Id,
      query: Signed,
      answers: { 200: { description: 'The bytes', media: 'application/octet-stream' } },
      problems: ['not-found', 'range-not-satisfiable'],
      handle: async ({ req, res, params: { id } }) => {
        await sendBytes(req, res, repository.bytes, await findFile(ledger, null, id));
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
        const attempt = attemptOf(req);
        const file = await repository.storeOutput({ ...readUpload(req, res, sha256), taskId, node, path, attempt });
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
      summary: "Append to a build's log; bytes that are there already do not change",
      access: 'signed',
      params: z.strictObject({ imageId: z.string(), vmId: z.string() }),
      query: Signed,
      bytes: { description: 'The bytes that Content-Range names' },
      answers: { 200: { description: 'Appended', schema: LogSize } },
      problems: ['not-found', 'conflict', 'too-large', 'disk-full'],
      handle: async ({ req, res, params: { imageId, vmId } }) => {
        return append(req, res, { holderId: vmId, node: 0, ownerId: await findBuild(ledger, imageId, vmId) });
      },
    }),
    operation({
      method: 'put',
      path: '/internal/tasks/{taskId}/log/{node}',
      id: 'appendLog',
      tag: 'internal',
      summary: 'Append to a log; bytes that are there already do not change',
      access: 'signed',
      params: Node,
      query: Signed,
      bytes: { description: 'The bytes that Content-Range names' },
      answers: { 200: { description: 'Appended', schema: LogSize } },
      problems: ['not-found', 'conflict', 'too-large', 'disk-full'],
      handle: async ({ req, res, params: { taskId, node } }) => {
        return append(req, res, { holderId: taskId, node, ownerId: await findTaskOwner(ledger, taskId) });
      },
    }),
  ];
}
