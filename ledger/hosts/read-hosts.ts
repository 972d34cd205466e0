import type { Host } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';

export type HostRecord = Host;

/** Throws not-found. */
export async function findHost(ledger: Ledger, id: string): Promise<HostRecord> {
  const row = await ledger.host.findUnique({ where: { id } });
  if (!row) throw new BerthError('not-found', `There is no host ${id}`);
  return row;
}

export async function readHosts(ledger: Ledger, page: PageRequest): Promise<HostRecord[]> {
  return ledger.host.findMany(pageQuery(page, {}));
}
