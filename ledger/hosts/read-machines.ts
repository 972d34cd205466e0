import { z } from 'zod';
import type { MachineListAnswer } from '../../contracts/host-calls.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';

const Row = z.strictObject({ version: z.string(), addresses: z.string().nullable(), here: z.string() });

/**
 * The addresses of all hosts and edges, to which the owners' networks on a host flood, for that host. Throws not-found.
 * @param known the version of the list that is not needed again
 */
export async function readMachines(tx: Transaction, host: string, known: string): Promise<MachineListAnswer> {
  // As one text: an element for each machine would be most of what is read.
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT site.version, CASE WHEN site.version IS DISTINCT FROM ${known}::text THEN site.addresses END AS addresses, one.address AS here
    FROM "Host" one, "MachineList" site WHERE one.id = ${host}`;
  const { version, addresses, here } = Row.parse(oneOrNotFound(rows, `host ${host}`));
  return { version, addresses: addresses?.split(' ') ?? null, here };
}
