import { Prisma, type Task } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { leaseEventTypes, type TaskAcceptedData, taskEventTypes } from '../../model/events.ts';
import { newId } from '../../model/ids.ts';
import { changedRules, groupsOf } from '../../model/placement/rules.ts';
import type { TaskSpec } from '../../model/task.ts';
import { eventInsert } from '../events/write-event.ts';
import { lockFiles } from '../files/lock-files.ts';
import { findImage } from '../images/find-image.ts';
import { isPromised, promiseLease } from '../leases/admission.ts';
import { leaseInsert } from '../leases/insert-lease.ts';
import { writeLeaseEvent } from '../leases/lease-event.ts';
import type { LeasePromise } from '../leases/plan/admission.ts';
import { fitsEmptyHosts, refuseUnlessFits } from '../placement/fit.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import type { TaskRecord } from './read-tasks.ts';

export interface TaskRequest {
  owner: string;
  spec: TaskSpec;
  nowMs: number;
}

/** The inputs, locked against deletion until the task's row names them. Throws file-unknown and digest-mismatch. */
async function lockInputs(tx: Transaction, owner: string, spec: TaskSpec): Promise<void> {
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
  const differs = wanted.filter((want) => want.input.sha256 !== undefined && want.input.sha256 !== found.get(want.file)?.sha256);
  if (differs.length > 0)
    throw new BerthError('digest-mismatch', `${differs.length} of the inputs do not have the digest that the task names`, {
      fields: differs.map((want) => ({
        pointer: `/inputs/${want.index}/sha256`,
        detail: `the file has ${found.get(want.file)?.sha256}`,
      })),
    });
}

/** By name: a statement with whatever columns a table has is planned at each call (ledger/statement-names.ts). */
const taskColumns = Prisma.raw(
  Object.values(Prisma.TaskScalarFieldEnum)
    .map((name) => `"${name}"`)
    .join(', '),
);

/** Inserts the lease, the task, its VMs (pending, node0…) and the event, and returns the task as readers find it. */
async function insertTask(
  tx: Transaction,
  request: TaskRequest,
  image: { id: string; virtualMiB: number },
  lease: { id: string; promise: LeasePromise | null },
): Promise<TaskRecord> {
  const { owner, spec } = request;
  const task = newId('task');
  const at = isoOf(request.nowMs);
  const rules = changedRules(null, spec);
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
  const [row] = await tx.$queryRaw<Task[]>`
    WITH lease AS (${leaseInsert({ ...lease, owner, spec: spec.lease, at })}
    ), task AS (
      INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId", "createdAt")
      VALUES (${task}, ${owner}, ${spec.name}, ${JSON.stringify(spec)}::jsonb, 'queued', ${lease.id}, ${at}::timestamptz) RETURNING ${taskColumns}
    ), vms AS (
    INSERT INTO "Vm" (id, "ownerId", name, "imageId", vcpus, "memoryMiB", "diskMiB", "overlayMiB", state, "taskId", node, "leaseId", "createdAt", rules, groups)
    SELECT vm.id, ${owner}, vm.name, ${image.id}, ${spec.resources.vcpus}, ${spec.resources.memoryMiB}, ${spec.resources.diskMiB},
           ${image.virtualMiB}, 'pending', ${task}, vm.node, ${lease.id}, ${at}::timestamptz,
           ${rules === null ? null : JSON.stringify(rules)}::jsonb, ${groupsOf(owner, rules)}::text[]
    FROM jsonb_to_recordset(${JSON.stringify(vms)}::jsonb) AS vm(id text, node int, name text)
    ), event AS (${eventInsert({ type: taskEventTypes.accepted, subject: task, owner, time: at, data })}
    )
    SELECT ${taskColumns} FROM task`;
  if (lease.promise !== null) await writeLeaseEvent(tx, lease.id, leaseEventTypes.accepted, at);
  const [startAt, endAt] = [lease.promise?.startAtMs, lease.promise?.endAtMs].map((ms) =>
    ms === undefined ? null : new Date(ms),
  );
  return { ...row!, vms: vms.map(({ id }) => ({ id, hostId: null })), lease: { startAt: startAt!, endAt: endAt! } };
}

/**
 * Accepts a task within the caller's transaction: inserts its rows, queued, and `berth.task.accepted`. A lease with a fixed
 * start is promised here, or refused, which leaves nothing of the task.
 *
 * Throws image-unknown, file-unknown, digest-mismatch (an input's sha256 is not its file's), does-not-fit and
 * lease-refused. The caller bounds the queue's length.
 */
export async function acceptTask(tx: Transaction, request: TaskRequest): Promise<TaskRecord> {
  const { owner, spec, nowMs } = request;
  const disk = Prisma.sql`(${spec.resources.diskMiB}::int + i."virtualMiB")`;
  const fits = Prisma.sql`, ${fitsEmptyHosts(spec.resources, disk, spec.nodes)} AS fits`;
  const image = await findImage<{ fits: boolean }>(tx, owner, spec.image, '/image', fits);
  await lockInputs(tx, owner, spec);
  await refuseUnlessFits(tx, spec, image.virtualMiB, image.fits);
  const id = newId('lease');
  const each = { ...spec.resources, diskMiB: spec.resources.diskMiB + image.virtualMiB };
  // The last check, because it takes the placement lock, which is held to the end of the transaction.
  const promise = isPromised(spec.lease)
    ? await promiseLease(tx, { id, spec: spec.lease, nodes: spec.nodes, each, image, nowMs })
    : null;
  return insertTask(tx, request, image, { id, promise });
}
