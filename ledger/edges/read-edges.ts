import type { Edge } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';

/** An edge does several exchanges a second: after this it is taken for silent. */
const silentAfterMs = 5000;

export interface EdgeRecord extends Edge {
  state: 'up' | 'unknown';
  /** It has the public addresses. */
  active: boolean;
}

export async function readEdges(ledger: Ledger, page: PageRequest, nowMs: number): Promise<EdgeRecord[]> {
  const rows = await ledger.edge.findMany(pageQuery(page, {}));
  const holders = await ledger.$queryRaw<{ edgeId: string }[]>`SELECT "edgeId" FROM "EdgeLease" WHERE until > clock_timestamp()`;
  return rows.map((row) => ({
    ...row,
    state: nowMs - row.seenAt.getTime() < silentAfterMs ? 'up' : 'unknown',
    active: holders.some(({ edgeId }) => edgeId === row.id),
  }));
}

/**
 * Removes an edge that does not return: hosts and other edges forget its addresses. One that asks again is there again. Throws
 * not-found; conflict for one that answers.
 */
export async function changeEdgeRemoved(ledger: Ledger, id: string, nowMs: number): Promise<void> {
  const { count } = await ledger.edge.deleteMany({ where: { id, seenAt: { lt: new Date(nowMs - silentAfterMs) } } });
  if (count > 0) return;
  if ((await ledger.edge.count({ where: { id } })) === 0) throw new BerthError('not-found', `There is no edge ${id}`);
  throw new BerthError('conflict', `Edge ${id} answers: stop its berth-edge first`);
}

interface StateCount {
  state: string;
  rows: number;
}

export async function readEdgeCounts(ledger: Ledger, nowMs: number): Promise<StateCount[]> {
  const heardFrom = new Date(nowMs - silentAfterMs);
  return ledger.$queryRaw<StateCount[]>`
    SELECT CASE WHEN "seenAt" > ${heardFrom} THEN 'up' ELSE 'unknown' END AS state, count(*)::int AS rows FROM "Edge" GROUP BY 1`;
}

export async function readPortCounts(ledger: Ledger): Promise<StateCount[]> {
  return ledger.$queryRaw<StateCount[]>`SELECT state::text, count(*)::int AS rows FROM "PublishedPort" GROUP BY state`;
}
