import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { eventId, leaseEventTypes, type TaskAcceptedData, taskEventTypes } from '../../model/events.ts';
import { newId, type TaskId } from '../../model/ids.ts';
import type { LeaseSpec, TaskSpec } from '../../model/task.ts';
import { permanentRefusal } from '../../scheduler/placement.ts';
import { lockFiles } from '../files/lock-files.ts';
import { findImage } from '../images/find-image.ts';
import { isPromised, type LeasePromise, promiseLease } from '../leases/admission.ts';
import { writeLeaseEvent } from '../leases/lease-event.ts';

export interface TaskRequest {
  owner: string;
  spec: TaskSpec;
  nowMs: number;
}

/** The inputs, locked against deletion until the task's row names them. Throws file-unknown and digest-mismatch. */
async function lockInputs(tx: Prisma.TransactionClient, owner: string, spec: TaskSpec): Promise<void> {
  const wanted = spec.inputs.flatMap((input, index) => (input.file === undefined ? [] : [{ index, input, file: input.file }]));
  if (wanted.length === 0) return;
  const found = await lockFiles(
    tx,
    owner,
    wanted.map((want) => want.file),
  );
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

export async function refuseUnlessFits(
  tx: Prisma.TransactionClient,
  spec: Pick<TaskSpec, 'resources' | 'nodes'>,
  overlayMiB: number,
): Promise<void> {
  const hosts = await tx.host.findMany({ select: { id: true, vcpus: true, memoryMiB: true, diskMiB: true } });
  const each = { ...spec.resources, diskMiB: spec.resources.diskMiB + overlayMiB };
  const none = { vcpus: 0, memoryMiB: 0, diskMiB: 0 };
  const refusal = permanentRefusal(
    { id: 'asked', nodes: spec.nodes, perVm: each, imageId: null, overtaken: 0 },
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

/** A lease's row as it is accepted: with its promise, or without one in the queue. */
export async function insertLease(
  tx: Prisma.TransactionClient,
  lease: { id: string; owner: string; spec: LeaseSpec; at: string; promise: LeasePromise | null },
): Promise<void> {
  const { id, owner, spec, at, promise } = lease;
  await tx.$executeRaw`
    INSERT INTO "Lease" (id, "ownerId", kind, "durationS", priority, preemptible, "deadlineAt", "startAt", "endAt", "plannedHosts", "createdAt")
    VALUES (${id}, ${owner}, ${spec.kind}::"LeaseKind", ${spec.durationS}, ${spec.priority ?? 0}, ${spec.preemptible ?? true},
            ${spec.deadline ?? null}::timestamptz, ${isoOrNull(promise?.startAtMs)}::timestamptz,
            ${isoOrNull(promise?.endAtMs)}::timestamptz, ${promise?.hosts ?? []}, ${at}::timestamptz)`;
}

const isoOrNull = (ms: number | undefined): string | null => (ms === undefined ? null : new Date(ms).toISOString());

/** The lease, the task and its VMs (pending, node0…), and the event that says so. */
async function insertTask(
  tx: Prisma.TransactionClient,
  order: TaskRequest,
  image: { id: string; virtualMiB: number },
  lease: { id: string; promise: LeasePromise | null },
): Promise<TaskId> {
  const { owner, spec } = order;
  const task = newId('task');
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
  await insertLease(tx, { ...lease, owner, spec: spec.lease, at });
  await tx.$executeRaw`
    WITH task AS (
      INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId", "createdAt")
      VALUES (${task}, ${owner}, ${spec.name}, ${JSON.stringify(spec)}::jsonb, 'queued', ${lease.id}, ${at}::timestamptz)
    )
    INSERT INTO "Vm" (id, "ownerId", name, "imageId", vcpus, "memoryMiB", "diskMiB", "overlayMiB", state, "taskId", node, "leaseId", "createdAt")
    SELECT vm.id, ${owner}, vm.name, ${image.id}, ${spec.resources.vcpus}, ${spec.resources.memoryMiB}, ${spec.resources.diskMiB},
           ${image.virtualMiB}, 'pending', ${task}, vm.node, ${lease.id}, ${at}::timestamptz
    FROM jsonb_to_recordset(${JSON.stringify(vms)}::jsonb) AS vm(id text, node int, name text)`;
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${eventId(task, taskEventTypes.accepted)}, ${taskEventTypes.accepted}, ${task}, ${owner}, ${at}::timestamptz,
            ${JSON.stringify(data)}::jsonb)`;
  if (lease.promise !== null) await writeLeaseEvent(tx, lease.id, leaseEventTypes.accepted, at);
  return task;
}

/**
 * Accepts a task within the caller's transaction: its rows, queued, and `berth.task.accepted`, which
 * gets its number when the transaction commits.
 *
 * A lease with a fixed start is promised here, or refused: a task that was refused has never existed.
 *
 * Throws image-unknown, file-unknown, digest-mismatch (an input's sha256 is not its file's), does-not-fit and
 * lease-refused; bounds on the queue's length are the caller's.
 */
export async function acceptTask(tx: Prisma.TransactionClient, order: TaskRequest): Promise<TaskId> {
  const image = await findImage(tx, order.owner, order.spec.image, '/image');
  await lockInputs(tx, order.owner, order.spec);
  await refuseUnlessFits(tx, order.spec, image.virtualMiB);
  const { spec, nowMs } = order;
  const id = newId('lease');
  const each = { ...spec.resources, diskMiB: spec.resources.diskMiB + image.virtualMiB };
  // Last, because the lock is held from here to the end of the transaction.
  const promise = isPromised(spec.lease)
    ? await promiseLease(tx, { id, spec: spec.lease, nodes: spec.nodes, each, image, nowMs })
    : null;
  return insertTask(tx, order, image, { id, promise });
}
