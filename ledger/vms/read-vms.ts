import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';

const withLease = { lease: { select: { kind: true, durationS: true, startedAt: true, startAt: true, endAt: true } } } as const;

/** A VM and its lease. */
export type VmRecord = Prisma.VmGetPayload<{ include: typeof withLease }>;

/** @param owner whose VM; null: any owner's. Throws not-found. */
export async function findVm(tx: Transaction, owner: string | null, id: string): Promise<VmRecord> {
  const row = await tx.vm.findFirst({ where: { id, ...(owner !== null && { ownerId: owner }) }, include: withLease });
  if (!row) throw new BerthError('not-found', `There is no VM ${id}`);
  return row;
}

/** The VM of one of a task's nodes. @param owner whose task; null: any owner's. Throws not-found. */
export async function findTaskVm(tx: Transaction, owner: string | null, taskId: string, node: number): Promise<VmRecord> {
  const row = await tx.vm.findFirst({
    where: { taskId, node, ...(owner !== null && { ownerId: owner }) },
    orderBy: { createdAt: 'desc' },
    include: withLease,
  });
  if (!row) throw new BerthError('not-found', `There is no VM of node ${node} of a task ${taskId}`);
  return row;
}

/** @param owner whose VMs; null: every owner's */
export async function readVms(ledger: Ledger, owner: string | null, page: PageRequest): Promise<VmRecord[]> {
  return ledger.vm.findMany({ ...pageQuery(page, { ownerId: owner ?? undefined }), include: withLease });
}
