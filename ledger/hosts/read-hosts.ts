import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';

const withFences = { fences: { select: { vmId: true, createdAt: true }, orderBy: { vmId: 'asc' } } } as const;

/** A host, and the VMs whose end it has not confirmed. */
export type HostRecord = Prisma.HostGetPayload<{ include: typeof withFences }>;

/** Throws not-found, also for a host that was removed. */
export async function findHost(ledger: Transaction, id: string): Promise<HostRecord> {
  const row = await ledger.host.findUnique({ where: { id, removedAt: null }, include: withFences });
  if (!row) throw new BerthError('not-found', `There is no host ${id}`);
  return row;
}

export async function readHosts(ledger: Ledger, page: PageRequest): Promise<HostRecord[]> {
  return ledger.host.findMany({ ...pageQuery(page, { removedAt: null }), include: withFences });
}
