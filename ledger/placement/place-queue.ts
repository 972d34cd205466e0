import { createHash } from 'node:crypto';
import type { Notification } from '../../contracts/ledger.ts';
import type { Resources } from '../../model/host.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { Refusal } from '../../model/task.ts';
import { type PlacementHost, type PlacementRequest, placeQueue, type QueueVerdict } from '../../scheduler/placement.ts';
import { isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { freeAddress, macOf } from './addresses.ts';
import { addNetworks, type OwnerNetwork } from './owner-networks.ts';

export { lockPlacement } from './lock-placement.ts';

/** How many waiting tasks one pass looks at; the rest wait behind them. */
const lookahead = 256;

/** A task with its VMs, or a VM that stands alone. */
export interface QueueRow {
  id: TaskId | VmId;
  owner: string;
  overtaken: number;
  refusal: Refusal | null;
  imageId: string | null;
  each: Resources;
  vms: { id: string; generation: number }[];
}

interface HostRow {
  id: string;
  state: 'up' | 'unknown';
  schedulable: boolean;
  capacity: Resources;
  used: Resources;
  images: string[];
}

export type NetworkRow = { owner: string; cidr: string; taken: string[] };

interface WaitingQueue {
  /** There are promises to be kept, or work to be resumed: the planner places. */
  planned: boolean;
  hosts: HostRow[] | null;
  queue: QueueRow[] | null;
  /** Of the owners in the queue that have one, with the addresses that are in use there. */
  networks: NetworkRow[] | null;
  /** Placed by an earlier pass and not begun yet. */
  placed: (TaskId | VmId)[] | null;
}

interface PlacedVm {
  vm: string;
  host: string;
  address: string;
  mac: string;
}

export type PlacementDecision = { row: QueueRow; verdict: QueueVerdict };

/** What a pass found. */
export interface PlacementPass {
  notify: Notification[];
  /** It was left to the planner. */
  planned: boolean;
  /** What became of each task that was looked at, in the queue's order. */
  verdicts: Map<TaskId | VmId, QueueVerdict>;
  hosts: number;
}

/** A task that waits has all its VMs pending; one whose VMs were released already is on its way to its end. */
async function readWaiting(tx: Transaction, now: string): Promise<WaitingQueue> {
  const rows = await tx.$queryRaw<WaitingQueue[]>`
    WITH waiting AS (
      SELECT id, "ownerId", overtaken, refusal, "createdAt" FROM "Task"
      WHERE state = 'queued' AND "placedAt" IS NULL AND "cancelRequestedAt" IS NULL
      UNION ALL
      SELECT id, "ownerId", overtaken, refusal, "createdAt" FROM "Vm"
      WHERE "order" IS NOT NULL AND state = 'pending' AND "removalRequestedAt" IS NULL
      ORDER BY "createdAt", id LIMIT ${lookahead}
    )
    SELECT
      EXISTS (SELECT FROM "Lease" WHERE "startAt" IS NOT NULL AND "startedAt" IS NULL AND "endedAt" IS NULL)
        OR EXISTS (SELECT FROM "Lease" WHERE suspension IS NOT NULL AND "endedAt" IS NULL)
        OR EXISTS (SELECT FROM "Host" WHERE "vacantUntil" > ${now}::timestamptz) AS planned,
      (SELECT jsonb_agg(jsonb_build_object('id', h.id, 'state', h.state, 'schedulable', h.schedulable,
        'capacity', jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB", 'diskMiB', h."diskMiB"),
        'used', jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB", 'diskMiB', h."usedDiskMiB"),
        'images', ARRAY(SELECT i."imageId" FROM "HostImage" i WHERE i."hostId" = h.id)))
      FROM "Host" h) AS hosts,
      (SELECT jsonb_agg(jsonb_build_object('id', t.id, 'owner', t."ownerId", 'overtaken', t.overtaken, 'refusal', t.refusal,
        'imageId', v.image, 'vms', v.vms,
        'each', jsonb_build_object('vcpus', v.vcpus, 'memoryMiB', v.memory, 'diskMiB', v.disk)) ORDER BY t."createdAt", t.id)
      FROM waiting t JOIN LATERAL (
        SELECT max("imageId") AS image, max(vcpus) AS vcpus, max("memoryMiB") AS memory, max("diskMiB" + "overlayMiB") AS disk,
          jsonb_agg(jsonb_build_object('id', id, 'generation', generation) ORDER BY node) AS vms
        FROM "Vm" WHERE "taskId" = t.id OR id = t.id HAVING bool_and(state = 'pending')) v ON true) AS queue,
      (SELECT jsonb_agg(jsonb_build_object('owner', n."ownerId", 'cidr', n.cidr, 'taken', ARRAY(
        SELECT v.address FROM "Vm" v
        WHERE v."ownerId" = n."ownerId" AND v.state NOT IN ('pending', 'removed') AND v.address IS NOT NULL)))
       FROM "Network" n WHERE n."ownerId" IN (SELECT "ownerId" FROM waiting)) AS networks,
      (SELECT jsonb_agg(id) FROM (
        SELECT id FROM "Task" WHERE state = 'queued' AND "placedAt" IS NOT NULL AND "cancelRequestedAt" IS NULL
        UNION ALL SELECT id FROM "Vm" WHERE "order" IS NOT NULL AND state = 'reserved' AND "removalRequestedAt" IS NULL
      ) AS waiter) AS placed`;
  return rows[0]!;
}

function decidePlacements(queue: QueueRow[], hostRows: HostRow[], maxOvertaken: number): PlacementDecision[] {
  const rows = new Map<string, QueueRow>(queue.map((row) => [row.id, row]));
  const requests: PlacementRequest[] = queue.map((row) => ({
    id: row.id,
    nodes: row.vms.length,
    perVm: row.each,
    imageId: row.imageId,
    overtaken: row.overtaken,
  }));
  const hosts: PlacementHost[] = hostRows.map((host) => ({ ...host, images: new Set(host.images) }));
  return placeQueue(requests, hosts, { maxOvertaken, lookahead }).map(({ request, verdict }) => ({
    row: rows.get(request.id)!,
    verdict,
  }));
}

/** A number from an id and a generation, the same every time, spread evenly. */
export function addressSeed(vm: { id: string; generation: number }): number {
  return createHash('sha256').update(`${vm.id}/${vm.generation}`).digest().readUInt32BE();
}

/** Addresses for all VMs of a task; null when its owner's network has not enough. */
function allocateAddresses(row: QueueRow, hosts: string[], network: OwnerNetwork): PlacedVm[] | null {
  const placed: PlacedVm[] = [];
  for (const [node, vm] of row.vms.entries()) {
    const address = freeAddress(network.cidr, network.taken, addressSeed(vm));
    if (address === null) {
      for (const { address: given } of placed) network.taken.delete(given);
      return null;
    }
    network.taken.add(address);
    placed.push({ vm: vm.id, host: hosts[node]!, address, mac: macOf(address) });
  }
  return placed;
}

/** Gives the placed VMs their addresses; a task for which there are none goes on waiting. */
export async function assignAddresses(
  deps: LedgerDeps,
  tx: Transaction,
  answers: PlacementDecision[],
  hosts: number,
  known: NetworkRow[],
): Promise<PlacedVm[]> {
  const owners = [...new Set(answers.flatMap(({ row, verdict }) => (verdict.kind === 'placed' ? [row.owner] : [])))];
  const networks = new Map<string, OwnerNetwork | null>(
    known.map(({ owner, cidr, taken }) => [owner, { cidr, taken: new Set(taken) }]),
  );
  await addNetworks(tx, deps.control.BERTH_GUEST_SUPERNET, owners, networks);
  const placed: PlacedVm[] = [];
  for (const answer of answers) {
    if (answer.verdict.kind !== 'placed') continue;
    const network = networks.get(answer.row.owner) ?? null;
    const vms = network === null ? null : allocateAddresses(answer.row, answer.verdict.hosts, network);
    if (vms === null)
      answer.verdict = {
        kind: 'waits',
        refusal: { hosts, failed: { [network === null ? 'network' : 'address']: hosts } },
        overtaken: answer.row.overtaken,
      };
    else placed.push(...vms);
  }
  return placed;
}

/** The tasks whose row does not say yet why they wait, and how often they were overtaken. */
export function changedRefusals(answers: PlacementDecision[]): { id: string; refusal: Refusal; overtaken: number }[] {
  return answers.flatMap(({ row, verdict }) => {
    if (verdict.kind === 'placed') return [];
    const overtaken = verdict.kind === 'waits' ? verdict.overtaken : row.overtaken;
    if (overtaken === row.overtaken && sameRefusal(row.refusal, verdict.refusal)) return [];
    return [{ id: row.id, refusal: verdict.refusal, overtaken }];
  });
}

function sameRefusal(a: Refusal | null, b: Refusal): boolean {
  if (a === null || a.hosts !== b.hosts) return false;
  const filters = new Set([...Object.keys(a.failed), ...Object.keys(b.failed)]);
  return [...filters].every((filter) => a.failed[filter] === b.failed[filter]);
}

/** All rows of a pass in one statement. The clock of a best-effort lease starts here. */
export async function writePlacements(
  tx: Transaction,
  now: string,
  placed: PlacedVm[],
  tasks: string[],
  waits: ReturnType<typeof changedRefusals>,
): Promise<void> {
  if (placed.length === 0 && waits.length === 0) return;
  await tx.$executeRaw`
    WITH vm AS (
      UPDATE "Vm" v SET state = 'reserved', "hostId" = p.host, "homeId" = p.host, generation = v.generation + 1,
        address = p.address, mac = p.mac, "placedAt" = ${now}::timestamptz, refusal = NULL
      FROM jsonb_to_recordset(${JSON.stringify(placed)}::jsonb) AS p(vm text, host text, address text, mac text)
      WHERE v.id = p.vm RETURNING v."leaseId"
    ), begun AS (
      UPDATE "Task" SET "placedAt" = ${now}::timestamptz, refusal = NULL WHERE id = ANY(${tasks})
    ), lease AS (
      UPDATE "Lease" SET "startedAt" = ${now}::timestamptz WHERE id IN (SELECT "leaseId" FROM vm)
    ), waits AS (
      SELECT * FROM jsonb_to_recordset(${JSON.stringify(waits)}::jsonb) AS w(id text, refusal jsonb, overtaken int)
    ), alone AS (
      UPDATE "Vm" v SET refusal = w.refusal, overtaken = w.overtaken FROM waits w WHERE v.id = w.id
    )
    UPDATE "Task" t SET refusal = w.refusal, overtaken = w.overtaken FROM waits w WHERE t.id = w.id`;
}

/** As long as there is a plan, only who knows all of it may place: who is placed in a gap must be out of it in time. */
function deferToPlanner(queue: QueueRow[], hosts: number): PlacementPass {
  const waits = ({ overtaken }: QueueRow): QueueVerdict => ({
    kind: 'waits',
    refusal: { hosts, failed: { planned: hosts } },
    overtaken,
  });
  return { notify: ['planner'], planned: true, verdicts: new Map(queue.map((row) => [row.id, waits(row)])), hosts };
}

/**
 * Places what waits and now fits. The caller holds the placement lock, and ends its transaction next: everybody who
 * places or frees waits for it, so it holds the lock for one read and one write.
 */
export async function placeWaiting(deps: LedgerDeps, tx: Transaction): Promise<PlacementPass> {
  const waiting = await readWaiting(tx, isoNow(deps));
  const hosts = waiting.hosts ?? [];
  if (waiting.planned) return deferToPlanner(waiting.queue ?? [], hosts.length);
  const decisions = decidePlacements(waiting.queue ?? [], hosts, deps.control.BERTH_MAX_OVERTAKEN);
  const placed = await assignAddresses(deps, tx, decisions, hosts.length, waiting.networks ?? []);
  const ids = (kind: QueueVerdict['kind']) => decisions.filter(({ verdict }) => verdict.kind === kind).map(({ row }) => row.id);
  await writePlacements(tx, isoNow(deps), placed, ids('placed'), changedRefusals(decisions));
  return {
    // Also those of earlier passes: whoever was to tell them may have died before doing it.
    notify: [...(waiting.placed ?? []), ...ids('placed'), ...ids('impossible')],
    planned: false,
    verdicts: new Map(decisions.map(({ row, verdict }) => [row.id, verdict])),
    hosts: hosts.length,
  };
}
