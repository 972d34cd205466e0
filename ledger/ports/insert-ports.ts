import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import type { PortRequest, PublicPorts } from '../../model/network/published-port.ts';
import { isoOf, type Transaction } from '../transaction.ts';

interface NewPorts {
  owner: string;
  vms: readonly string[];
  /** Each VM gets all of them. */
  ports: readonly PortRequest[];
  site: PublicPorts;
  nowMs: number;
  /** Where the request has them, for the pointers of a refusal. */
  pointer: (index: number) => string;
}

/** All that choose public ports, to the end of their transactions. */
async function lockPublicPorts(tx: Transaction): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(7305, 3)`;
}

/**
 * Publishes ports of VMs: inserts their rows, pending, with the VMs' addresses. The edges do the rest. Throws conflict for a
 * public port that is in use, and where none is free or the site publishes none; bad-request for one outside the site's range.
 * @returns the ids of the rows
 */
export async function insertPorts(tx: Transaction, { owner, vms, ports, site, nowMs, pointer }: NewPorts): Promise<string[]> {
  if (ports.length === 0) return [];
  if (site.addresses.length === 0)
    throw new BerthError('conflict', 'This site publishes no ports: it has no public address (BERTH_PUBLIC_ADDRESSES)');
  for (const [index, { publicPort }] of ports.entries()) {
    if (publicPort === undefined) continue;
    const refuse = (detail: string) =>
      new BerthError('bad-request', `The public port ${publicPort} can't be published`, {
        fields: [{ pointer: pointer(index), detail }],
      });
    if (publicPort < site.first || publicPort > site.last) throw refuse(`expected one from ${site.first} to ${site.last}`);
    if (vms.length > 1) throw refuse('expected none: each of several VMs gets a public port of its own');
  }
  await lockPublicPorts(tx);
  const ids: string[] = [];
  for (const vm of vms)
    for (const [index, request] of ports.entries()) {
      const place = await choosePublicPort(tx, site, request, ids.length + nowMs);
      if (place === null)
        throw new BerthError(
          'conflict',
          request.publicPort === undefined
            ? `No public port is free for ${request.protocol}, of ${site.first} to ${site.last}`
            : `The public port ${request.publicPort}/${request.protocol} is in use`,
          { fields: [{ pointer: pointer(index), detail: 'it is not free' }] },
        );
      const id = newId('port');
      await tx.$executeRaw`
        INSERT INTO "PublishedPort" (id, "ownerId", "vmId", protocol, port, "publicAddress", "publicPort", allow, address, "createdAt")
        SELECT ${id}, ${owner}, v.id, ${request.protocol}, ${request.port}, ${place.address}, ${place.port}, ${request.allow},
          CASE WHEN v.state = 'pending' THEN NULL ELSE v.address END, ${isoOf(nowMs)}::timestamptz
        FROM "Vm" v WHERE v.id = ${vm}`;
      ids.push(id);
    }
  return ids;
}

/** One that was withdrawn is seldom the next that is chosen: clients may still know it. */
async function choosePublicPort(
  tx: Transaction,
  { addresses, first, last }: PublicPorts,
  { protocol, publicPort }: PortRequest,
  seed: number,
): Promise<{ address: string; port: number } | null> {
  const [from, to] = publicPort === undefined ? [first, last] : [publicPort, publicPort];
  const size = to - from + 1;
  const rows = await tx.$queryRaw<{ address: string; port: number }[]>`
    SELECT a.address, n.port FROM generate_series(${from}::int, ${to}::int) AS n(port), unnest(${[...addresses]}::text[]) WITH ORDINALITY AS a(address, at)
    WHERE NOT EXISTS (SELECT FROM "PublishedPort" p
      WHERE p."publicAddress" = a.address AND p.protocol = ${protocol} AND p."publicPort" = n.port)
    ORDER BY (n.port - ${from}::int + ${size - Math.floor((seed * 7919) % size)}::int) % ${size}::int, a.at LIMIT 1`;
  return rows[0] ?? null;
}
