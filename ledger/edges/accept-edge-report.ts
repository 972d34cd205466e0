import type { EdgeAnswer, EdgeOrders, EdgeReport } from '../../contracts/edge.ts';
import { BerthError } from '../../model/errors.ts';
import { portEventTypes } from '../../model/network/port-events.ts';
import type { Ledger } from '../client.ts';
import { writeEventsOnce } from '../events/write-event.ts';
import { inTransaction, isoOf, type Transaction } from '../transaction.ts';
import { renewEdgeLease } from './edge-lease.ts';
import { readEdgeOrders } from './edge-orders.ts';

export interface EdgeExchange {
  edge: string;
  report: EdgeReport;
  publicAddresses: readonly string[];
  nowMs: number;
}

/** Of one exchange: it is to end before its edge gives it up, whatever number of ports is new. The rest is for the next ones. */
const changesAtOnce = 200;

/** Two machines with one BERTH_EDGE_ID would take the lease from each other without either knowing. */
const silentAfterMs = 10_000;

/**
 * Notes that the edge is there, and takes the next turn of its exchanges. Throws conflict for an id that another machine has, and for another edge's
 * address.
 */
async function takeTurn(tx: Transaction, { edge, report, nowMs }: EdgeExchange): Promise<number> {
  const { address, problem } = report;
  const rows = await tx.$queryRaw<{ id: string }[]>`SELECT id FROM "Edge" WHERE address = ${address} AND id <> ${edge}`;
  if (rows[0] !== undefined)
    throw new BerthError(
      'conflict',
      `Edge ${edge} has the address ${address}, which is edge ${rows[0].id}'s: set BERTH_EDGE_ADDRESS of one of them`,
    );
  const now = new Date(nowMs);
  const turns = await tx.$queryRaw<{ turn: number }[]>`
    INSERT INTO "Edge" (id, address, problem, turn, "seenAt", "createdAt") VALUES (${edge}, ${address}, ${problem}, 1, ${now}, ${now})
    ON CONFLICT (id) DO UPDATE SET address = EXCLUDED.address, problem = EXCLUDED.problem, turn = "Edge".turn % 2000000000 + 1,
      "seenAt" = EXCLUDED."seenAt"
    WHERE "Edge".address = EXCLUDED.address OR "Edge"."seenAt" < ${new Date(nowMs - silentAfterMs)} RETURNING turn`;
  const turn = turns[0]?.turn;
  if (turn === undefined)
    throw new BerthError(
      'conflict',
      `Edge ${edge} is another machine, which answers: give ${address} a BERTH_EDGE_ID of its own`,
    );
  return turn;
}

interface OpenPort {
  id: string;
  ownerId: string;
  vmId: string;
  protocol: string;
  port: number;
  publicAddress: string;
  publicPort: number;
  state: 'pending' | 'active' | 'removing';
  publishedAt: Date | null;
}

const dataOf = ({ id, ownerId, vmId, protocol, port, publicAddress, publicPort }: OpenPort, at: string) => ({
  port: id,
  vm: vmId,
  owner: ownerId,
  protocol: protocol as 'tcp' | 'udp',
  vmPort: port,
  publicAddress,
  publicPort,
  at,
});

/** What the active edge has in its kernel is active; a withdrawn port that it neither has nor may yet apply has ended. */
async function recordPorts(
  tx: Transaction,
  { edge, nowMs }: EdgeExchange,
  turn: number,
  had: Record<string, string>,
  { ports }: EdgeOrders,
): Promise<void> {
  // The next exchange waits for it; where that was first, this one says nothing.
  const current = await tx.$queryRaw<unknown[]>`SELECT id FROM "Edge" WHERE id = ${edge} AND turn = ${turn} FOR NO KEY UPDATE`;
  if (current.length === 0) return;
  const wanted = new Map(ports.map(({ id, digest }) => [id, digest]));
  const at = isoOf(nowMs);
  /** null: it has ended. */
  const stateOf = ({ id, state }: Pick<OpenPort, 'id' | 'state'>): OpenPort['state'] | null => {
    // Also one that is in the answer to this exchange: it was withdrawn after that was read.
    if (state === 'removing') return had[id] !== undefined || wanted.has(id) ? state : null;
    return wanted.has(id) && had[id] === wanted.get(id) ? 'active' : 'pending';
  };
  const all = await tx.$queryRaw<Pick<OpenPort, 'id' | 'state'>[]>`SELECT id, state FROM "PublishedPort" ORDER BY id`;
  const changed = all.filter((row) => stateOf(row) !== row.state).slice(0, changesAtOnce);
  if (changed.length === 0) return;
  // Locked in one order, and before their states are judged.
  const rows = await tx.$queryRaw<OpenPort[]>`
    SELECT * FROM "PublishedPort" WHERE id = ANY(${changed.map(({ id }) => id)}) ORDER BY id FOR NO KEY UPDATE`;
  // A statement for all of a kind: one for each row would take longer than the edge waits.
  const become = (state: OpenPort['state'] | null): OpenPort[] =>
    rows.filter((row) => row.state !== state && stateOf(row) === state);
  const idsOf = (list: readonly OpenPort[]): string[] => list.map(({ id }) => id);
  const [active, pending, ended] = [become('active'), become('pending'), become(null)];
  if (active.length > 0)
    await tx.$executeRaw`
      UPDATE "PublishedPort" SET state = 'active', "publishedAt" = COALESCE("publishedAt", ${at}::timestamptz) WHERE id = ANY(${idsOf(active)})`;
  if (pending.length > 0) await tx.$executeRaw`UPDATE "PublishedPort" SET state = 'pending' WHERE id = ANY(${idsOf(pending)})`;
  if (ended.length > 0) await tx.$executeRaw`DELETE FROM "PublishedPort" WHERE id = ANY(${idsOf(ended)})`;
  const event = (type: (typeof portEventTypes)[keyof typeof portEventTypes]) => (row: OpenPort) => ({
    ...{ type, subject: row.id, owner: row.ownerId, time: at },
    data: dataOf(row, at),
  });
  const withdrawn = ended.filter(({ publishedAt }) => publishedAt !== null);
  await writeEventsOnce(tx, [...active.map(event(portEventTypes.published)), ...withdrawn.map(event(portEventTypes.withdrawn))]);
}

/**
 * One exchange with an edge: notes that it is there, renews its lease or lets it have one that has ended, takes up what it says
 * of its ports, and answers with all that it has to let through. Of what an edge says, that of the lease's holder counts.
 */
export async function acceptEdgeReport(ledger: Ledger, exchange: EdgeExchange): Promise<EdgeAnswer> {
  const { edge, report, publicAddresses } = exchange;
  // By itself: nothing for which the rest waits must cost an edge its lease.
  const { turn, epoch } = await inTransaction(ledger, async (tx) => ({
    turn: await takeTurn(tx, exchange),
    epoch: await renewEdgeLease(tx, edge),
  }));
  // An exchange that the edge has given up, and that ends after the next one, says what it had before that.
  const isLatest = report.turn === turn - 1 && report.epoch === epoch;
  return inTransaction(ledger, async (tx) => {
    const { version, orders } = await readEdgeOrders(tx, edge, publicAddresses);
    if (epoch !== null && isLatest && report.ports !== null) await recordPorts(tx, exchange, turn, report.ports, orders);
    // A new holder says what it has; what is not as it is wanted is looked at until it is.
    const wantsPorts = !isLatest || (await isUnsettled(tx));
    return { turn, epoch, version, wantsPorts, orders: report.version === version ? null : orders };
  });
}

async function isUnsettled(tx: Transaction): Promise<boolean> {
  const rows = await tx.$queryRaw<{ unsettled: boolean }[]>`
    SELECT EXISTS (SELECT FROM "PublishedPort" WHERE state = 'removing' OR (state = 'pending' AND address IS NOT NULL)) AS unsettled`;
  return rows[0]!.unsettled;
}
