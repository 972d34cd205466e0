import { z } from 'zod';
import type { MachineListAnswer } from '../../contracts/host-calls.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';

const Row = z.strictObject({
  version: z.string(),
  addresses: z.string().nullable(),
  here: z.string(),
  heartbeatS: z.int(),
  asksForHelp: z.boolean(),
});

/**
 * The addresses of all hosts and edges, to which the owners' networks on a host flood, for that host, and what it does about its
 * load. Throws not-found.
 * @param known the version of the list that is not needed again
 */
export async function readMachines(tx: Transaction, host: string, known: string): Promise<MachineListAnswer> {
  // As one text: an element for each machine would be most of what is read.
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT site.version, CASE WHEN site.version IS DISTINCT FROM ${known}::text THEN site.addresses END AS addresses, one.address AS here,
      COALESCE(one."heartbeatS", b."heartbeatS") AS "heartbeatS", b.mode <> 'off' AND one.balance AS "asksForHelp"
    FROM "Host" one, "MachineList" site, "Balancer" b WHERE one.id = ${host}`;
  const { version, addresses, here, heartbeatS, asksForHelp } = Row.parse(oneOrNotFound(rows, `host ${host}`));
  return { version, addresses: addresses?.split(' ') ?? null, here, load: { heartbeatS, asksForHelp } };
}
