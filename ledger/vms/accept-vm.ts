import { BerthError } from '../../model/errors.ts';
import { leaseEventTypes, vmEventTypes } from '../../model/events.ts';
import { newId, type VmId } from '../../model/ids.ts';
import { changedRules, groupsOf } from '../../model/placement/rules.ts';
import { unboundedDurationS, type VmOperation, type VmRequest, vmOperations } from '../../model/vm-request.ts';
import { writeEvent } from '../events/write-event.ts';
import { lockFiles } from '../files/lock-files.ts';
import { findImage } from '../images/find-image.ts';
import { isPromised, promiseLease } from '../leases/admission.ts';
import { insertLease } from '../leases/insert-lease.ts';
import { writeLeaseEvent } from '../leases/lease-event.ts';
import { isUnpaid } from '../market/unpaid.ts';
import { refuseUnlessFits } from '../placement/fit.ts';
import type { Transaction } from '../transaction.ts';

export interface VmAcceptance {
  owner: string;
  order: VmRequest;
  nowMs: number;
}

/** The files of a VM, locked against deletion until its row names them. Throws file-unknown. */
async function lockVmFiles(tx: Transaction, owner: string, order: VmRequest): Promise<void> {
  const known = await lockFiles(
    tx,
    owner,
    order.files.map(({ file }) => file),
  );
  const fields = order.files.flatMap(({ file }, index) =>
    known.has(file) ? [] : [{ pointer: `/files/${index}/file`, detail: `there is no file ${file}` }],
  );
  if (fields.length > 0) throw new BerthError('file-unknown', `${fields.length} of the files do not exist`, { fields });
}

/**
 * Accepts a standalone VM within the caller's transaction: inserts its row, pending, its lease, and `berth.vm.created`.
 * A lease with a fixed start is promised here, or refused with lease-refused.
 * Throws image-unknown, file-unknown, does-not-fit, and conflict for a name that another VM of this owner has. The caller
 * bounds the number of the owner's VMs, and serializes the owner's accepts.
 */
export async function acceptVm(tx: Transaction, { owner, order, nowMs }: VmAcceptance): Promise<VmId> {
  const image = await findImage(tx, owner, order.image, '/image');
  await lockVmFiles(tx, owner, order);
  // Swap is a file in the root file system.
  const rootMiB = Math.max(image.virtualMiB, order.rootMiB ?? 0) + order.swapMiB;
  const overlayMiB = order.extraDisksMiB.reduce((sum, size) => sum + size, rootMiB);
  await refuseUnlessFits(tx, { ...order, nodes: 1 }, overlayMiB);
  const namesake = await tx.vm.findFirst({
    where: { ownerId: owner, name: order.name, taskId: null, state: { not: 'removed' } },
    select: { id: true },
  });
  if (namesake !== null)
    throw new BerthError('conflict', `The VM ${namesake.id} has the name ${order.name} already`, {
      fields: [{ pointer: '/name', detail: `it is the name of ${namesake.id}` }],
    });
  const id = newId('vm');
  const lease = newId('lease');
  const createdAt = new Date(nowMs);
  const rules = changedRules(null, order);
  const { vcpus, memoryMiB, diskMiB } = order.resources;
  const spec = { ...order.lease, durationS: order.lease.durationS ?? unboundedDurationS };
  const each = { vcpus, memoryMiB, diskMiB: diskMiB + overlayMiB };
  // The last check, because it takes the placement lock, which is held to the end of the transaction.
  const promise = isPromised(spec) ? await promiseLease(tx, { id: lease, spec, nodes: 1, each, image, nowMs }) : null;
  await insertLease(tx, { id: lease, owner, spec, at: createdAt.toISOString(), promise });
  await tx.vm.create({
    data: {
      id,
      ownerId: owner,
      name: order.name,
      imageId: image.id,
      vcpus,
      memoryMiB,
      diskMiB,
      overlayMiB,
      rootMiB,
      extraDisksMiB: order.extraDisksMiB,
      ...(rules !== null && { rules, groups: groupsOf(owner, rules) }),
      state: 'pending',
      order,
      leaseId: lease,
      createdAt,
    },
  });
  const data = {
    vm: id,
    name: order.name,
    owner,
    image: order.image,
    resources: order.resources,
    createdAt: createdAt.toISOString(),
  };
  await writeEvent(tx, { type: vmEventTypes.created, subject: id, owner, time: data.createdAt, data }, 'reject');
  if (promise !== null) await writeLeaseEvent(tx, lease, leaseEventTypes.accepted, createdAt.toISOString());
  return id;
}

/**
 * Records an operation on a VM, for its workflow. Throws conflict while another operation is under way, from a state that
 * does not allow it, and for a VM that migrates, is being removed or belongs to a task. Returns false where the VM is in
 * the target state already; not of a pause or a resume, since somebody else may just have paused or resumed the guest.
 */
export async function acceptOperation(tx: Transaction, id: string, operation: VmOperation, nowMs: number): Promise<boolean> {
  await tx.$queryRaw`SELECT id FROM "Vm" WHERE id = ${id} FOR UPDATE`;
  const vm = await tx.vm.findUniqueOrThrow({ where: { id } });
  const refuse = (why: string) => new BerthError('conflict', `VM ${id} ${why}; it cannot be asked to ${operation}`);
  if (vm.order === null) throw refuse(`belongs to the task ${vm.taskId}, which decides`);
  if (vm.removalRequestedAt !== null || vm.state === 'removed') throw refuse('is being removed');
  if (vm.operation === operation) return true;
  if (vm.operation !== null) throw refuse(`has yet to ${vm.operation}`);
  const { from, to } = vmOperations[operation];
  if (!(from as readonly string[]).includes(vm.state)) {
    if (vm.state === to) return false;
    throw refuse(`is ${vm.state}, and that needs one that is ${from.join(' or ')}`);
  }
  const migration = await tx.migration.findFirst({
    where: { vmId: id, state: { in: ['running', 'stuck'] } },
    select: { id: true },
  });
  if (migration !== null) throw refuse(`migrates (${migration.id})`);
  if (operation !== 'suspend' && operation !== 'pause' && (await isUnpaid(tx, vm.leaseId)))
    throw new BerthError('insufficient-funds', refuse('was suspended because its money has ended').message);
  if (operation === 'restore') {
    const suspension = await tx.drainSuspension.findFirst({ where: { vmId: id, releasedAt: null }, include: { drain: true } });
    if (suspension !== null && suspension.drain.hostId === vm.hostId)
      throw refuse(`is suspended in place for ${suspension.drainId}, until host ${vm.hostId} is opened`);
  }
  if (operation === 'reboot' && vm.state !== 'running' && vm.hostId !== null && (await isDrained(tx, vm.hostId)))
    throw refuse(`is ${vm.state} on host ${vm.hostId}, which is drained, until that is opened`);
  await tx.vm.update({ where: { id }, data: { operation, operationAt: new Date(nowMs) } });
  return true;
}

/** The host is being emptied, or was, and has not been opened since: nothing is started there. */
async function isDrained(tx: Transaction, hostId: string): Promise<boolean> {
  const rows = await tx.$queryRaw<{ drained: boolean }[]>`
    SELECT d.state IN ('waiting', 'moving', 'paused', 'held') OR (d.state = 'empty' AND NOT h.schedulable) AS drained
    FROM "Drain" d JOIN "Host" h ON h.id = d."hostId" WHERE h.id = ${hostId} ORDER BY d.number DESC LIMIT 1`;
  return rows[0]?.drained ?? false;
}
