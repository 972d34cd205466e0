import type { Prisma } from '../generated/prisma/client.ts';
import { BerthError } from '../model/errors.ts';
import { eventId, type TaskAcceptedData, taskEventTypes } from '../model/events.ts';
import { newId, type TaskId } from '../model/ids.ts';
import type { TaskSpec } from '../model/task.ts';
import { neverFits } from '../scheduler/placement.ts';
import { findImage } from './find-image.ts';

export interface AcceptedTask {
  owner: string;
  spec: TaskSpec;
  nowMs: number;
}

async function checkInputs(tx: Prisma.TransactionClient, owner: string, spec: TaskSpec): Promise<void> {
  const wanted = spec.inputs.flatMap((input, index) => (input.file === undefined ? [] : [{ index, input, file: input.file }]));
  if (wanted.length === 0) return;
  const files = await tx.file.findMany({
    where: { id: { in: wanted.map((want) => want.file) }, ownerId: owner, state: 'ready' },
    select: { id: true, sha256: true },
  });
  const found = new Map(files.map((file) => [file.id, file.sha256]));
  const unknown = wanted.filter((want) => !found.has(want.file));
  if (unknown.length > 0)
    throw new BerthError('file-unknown', `${unknown.length} of the inputs name a file that does not exist`, {
      fields: unknown.map((want) => ({ pointer: `/inputs/${want.index}/file`, detail: `there is no file ${want.file}` })),
    });
  const differs = wanted.filter((want) => want.input.sha256 !== undefined && want.input.sha256 !== found.get(want.file));
  if (differs.length > 0)
    throw new BerthError('digest-mismatch', `${differs.length} of the inputs do not have the digest that the task names`, {
      fields: differs.map((want) => ({
        pointer: `/inputs/${want.index}/sha256`,
        detail: `the file has ${found.get(want.file)}`,
      })),
    });
}

async function checkSize(tx: Prisma.TransactionClient, spec: TaskSpec, overlayMiB: number): Promise<void> {
  const hosts = await tx.host.findMany({ select: { id: true, vcpus: true, memoryMiB: true, diskMiB: true } });
  const each = { ...spec.resources, diskMiB: spec.resources.diskMiB + overlayMiB };
  const none = { vcpus: 0, memoryMiB: 0, diskMiB: 0 };
  const refusal = neverFits(
    { id: 'asked', nodes: spec.nodes, each, imageId: null, overtaken: 0 },
    hosts.map(({ id, ...capacity }) => ({
      id,
      state: 'up',
      schedulable: true,
      capacity,
      used: none,
      images: new Set<string>(),
    })),
  );
  if (refusal === null) return;
  const lacking = Object.entries(refusal.failed).map(([filter, count]) => `${count} for ${filter}`);
  throw new BerthError(
    'does-not-fit',
    `${spec.nodes} VM(s) of ${each.vcpus} vCPUs, ${each.memoryMiB} MiB of memory and ${each.diskMiB} MiB of disk (the image's ${overlayMiB} included) do not fit on this site's ${refusal.hosts} hosts, even when they are empty: ${lacking.join(', ')}`,
    { fields: [{ pointer: '/resources', detail: `refused by ${lacking.join(', ')} of ${refusal.hosts} hosts` }] },
  );
}

/** The lease, the task and its VMs (pending, node0…) in one statement, and the event that says so. */
async function insert(
  tx: Prisma.TransactionClient,
  order: AcceptedTask,
  image: { id: string; virtualMiB: number },
): Promise<TaskId> {
  const { owner, spec } = order;
  const task = newId('task');
  const lease = newId('lease');
  const at = new Date(order.nowMs).toISOString();
  const vms = Array.from({ length: spec.nodes }, (_, node) => ({ id: newId('vm'), node, name: `node${node}` }));
  const data: TaskAcceptedData = {
    task,
    name: spec.name,
    owner,
    image: spec.image,
    nodes: spec.nodes,
    resources: spec.resources,
    acceptedAt: at,
  };
  await tx.$executeRaw`
    WITH lease AS (
      INSERT INTO "Lease" (id, "ownerId", kind, "durationS", "createdAt")
      VALUES (${lease}, ${owner}, ${spec.lease.kind}::"LeaseKind", ${spec.lease.durationS}, ${at}::timestamptz)
    ), task AS (
      INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId", "createdAt")
      VALUES (${task}, ${owner}, ${spec.name}, ${JSON.stringify(spec)}::jsonb, 'queued', ${lease}, ${at}::timestamptz)
    )
    INSERT INTO "Vm" (id, "ownerId", name, "imageId", vcpus, "memoryMiB", "diskMiB", "overlayMiB", state, "taskId", node, "leaseId", "createdAt")
    SELECT vm.id, ${owner}, vm.name, ${image.id}, ${spec.resources.vcpus}, ${spec.resources.memoryMiB}, ${spec.resources.diskMiB},
           ${image.virtualMiB}, 'pending', ${task}, vm.node, ${lease}, ${at}::timestamptz
    FROM jsonb_to_recordset(${JSON.stringify(vms)}::jsonb) AS vm(id text, node int, name text)`;
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${eventId(task, taskEventTypes.accepted)}, ${taskEventTypes.accepted}, ${task}, ${owner}, ${at}::timestamptz,
            ${JSON.stringify(data)}::jsonb)`;
  return task;
}

/**
 * Accepts a task within the caller's transaction: its rows, queued, and `berth.task.accepted`, which
 * gets its number when the transaction commits.
 *
 * Throws image-unknown, file-unknown, digest-mismatch (an input's sha256 is not its file's) and does-not-fit; bounds on
 * the queue's length are the caller's.
 */
export async function acceptTask(tx: Prisma.TransactionClient, order: AcceptedTask): Promise<TaskId> {
  const image = await findImage(tx, order.owner, order.spec.image, '/image');
  await checkInputs(tx, order.owner, order.spec);
  await checkSize(tx, order.spec, image.virtualMiB);
  return insert(tx, order, image);
}
