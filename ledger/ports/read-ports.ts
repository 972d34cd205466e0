import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';

const withVm = { vm: { select: { taskId: true } } } as const;

export type PortRecord = Prisma.PublishedPortGetPayload<{ include: typeof withVm }>;

/** @param owner null: any. Throws not-found. */
export async function findPort(tx: Transaction, owner: string | null, vmId: string, id: string): Promise<PortRecord> {
  const row = await tx.publishedPort.findUnique({
    where: { id, vmId, ...(owner !== null && { ownerId: owner }) },
    include: withVm,
  });
  if (row === null) throw new BerthError('not-found', `VM ${vmId} has no published port ${id}`);
  return row;
}

/** @param owner null: of all. @param vmId null: of all VMs */
export async function readPorts(
  ledger: Ledger,
  owner: string | null,
  vmId: string | null,
  page: PageRequest,
): Promise<PortRecord[]> {
  return ledger.publishedPort.findMany({
    ...pageQuery(page, { ownerId: owner ?? undefined, vmId: vmId ?? undefined }),
    include: withVm,
  });
}
