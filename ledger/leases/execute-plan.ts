import type { Notification, PlanStep } from '../../contracts/ledger.ts';
import { leaseEventTypes } from '../../model/events.ts';
import type { Resources } from '../../model/host.ts';
import type { TaskId, WaiterId } from '../../model/ids.ts';
import type { SiteDecision } from '../../scheduler/leases/site/site-plan.ts';
import { decideSite } from '../../scheduler/leases/site/site-plan.ts';
import { tryAcceptMigration } from '../migrations/accept-migration.ts';
import { assignAddresses, type PlacementDecision } from '../placement/assign-addresses.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { changedRefusals, placeWaiting, plannedRefusal, writePlacements } from '../placement/place-queue.ts';
import type { QueueRow } from '../placement/read-waiting.ts';
import { inTransaction, isoNow, isoOf, type LedgerDeps, type Transaction } from '../transaction.ts';
import { writePromises } from './admission.ts';
import { writeLeaseEvent } from './lease-event.ts';
import { type LedgerLease, type LedgerSite, readSite } from './read-site.ts';

/** A workflow that does not report a suspension or resumption as done is notified again after this time. */
const renotifyAfterS = 5;

const isWaiter = (one: Notification): one is WaiterId => one !== 'planner';
const isoFromSeconds = (seconds: number): string => isoOf(Math.round(seconds * 1000));

/**
 * Executes what is due by the plan: writes starts, suspensions, resumptions and migrations as rows, in one transaction
 * under the placement lock. The plan is made from the rows themselves, so a lost step is decided again by the next one.
 * Returns the workflows to notify, and when the next decision is due.
 */
export async function stepPlan(deps: LedgerDeps): Promise<PlanStep> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const now = deps.clock() / 1000;
    const pass = await placeWaiting(deps, tx);
    if (!pass.planned) return { placed: pass.notify.filter(isWaiter), leaseOrderChanged: [], moves: [], wakeAt: null, leases: 0 };
    const { site, decision } = await decide(tx, now);
    const freeCapacity = new FreeCapacity(site);
    const started = await startLeases(deps, tx, site, decision, freeCapacity);
    await suspendLeases(tx, decision);
    const resumed = await resumeLeases(tx, site, decision, freeCapacity);
    const moves = await migrateLeases(deps, tx, site, decision);
    await writePromises(tx, decision.promises);
    return { ...collectNotifications(site, decision, started, resumed, now), moves };
  });
}

/** Decides with the leases that stand in the way of a promise which is due, and only these. */
async function decide(tx: Transaction, now: number): Promise<{ site: LedgerSite; decision: SiteDecision }> {
  const listed = new Set<string>();
  for (;;) {
    const site = await readSite(tx, [...listed]);
    const decision = decideSite(site, site.figures, now);
    const more = decision.hostsToList.filter((host) => !listed.has(host));
    if (more.length === 0) return { site, decision };
    for (const host of more) listed.add(host);
  }
}

/** The capacity that is free by the ledger's own sums, which are exact where the plan's prediction of this moment may not be. */
class FreeCapacity {
  readonly #used: Map<string, Resources>;
  readonly #capacity: Map<string, Resources>;

  constructor(site: LedgerSite) {
    this.#used = new Map(site.used);
    this.#capacity = new Map(site.hosts.map(({ id, capacity }) => [id, capacity]));
  }

  /** Reserves a VM's resources on each of these hosts, or on none. */
  reserve(hosts: readonly string[], each: Resources): boolean {
    const before = new Map(this.#used);
    for (const host of hosts) {
      const capacity = this.#capacity.get(host)!;
      const used = addResources(this.#used.get(host)!, each);
      this.#used.set(host, used);
      const fits = used.vcpus <= capacity.vcpus && used.memoryMiB <= capacity.memoryMiB && used.diskMiB <= capacity.diskMiB;
      if (fits) continue;
      for (const [id, usedBefore] of before) this.#used.set(id, usedBefore);
      return false;
    }
    return true;
  }
}

function addResources(a: Resources, b: Resources): Resources {
  return { vcpus: a.vcpus + b.vcpus, memoryMiB: a.memoryMiB + b.memoryMiB, diskMiB: a.diskMiB + b.diskMiB };
}

const leasesById = (site: LedgerSite): Map<string, LedgerLease> => new Map(site.leases.map((lease) => [lease.id, lease]));

/** The task, or the standalone VM, whose workflow waits for the lease. */
const waiterOf = ({ task, vms }: LedgerLease): WaiterId => task?.id ?? vms[0]!.id;

function queueRow(lease: LedgerLease): QueueRow {
  const { owner, imageId, perVm: each, vms } = lease;
  return { id: waiterOf(lease), owner, overtaken: 0, refusal: lease.refusal, imageId, each, vms };
}

/** Places the leases that start now, and records why the others wait. Returns those that were placed. */
async function startLeases(
  deps: LedgerDeps,
  tx: Transaction,
  site: LedgerSite,
  decision: SiteDecision,
  free: FreeCapacity,
): Promise<LedgerLease[]> {
  const leases = leasesById(site);
  const starting = new Map<LedgerLease, PlacementDecision>();
  for (const { lease: id, hosts } of decision.starts) {
    const lease = leases.get(id)!;
    if (!free.reserve(hosts, lease.perVm)) continue;
    starting.set(lease, { row: queueRow(lease), verdict: { kind: 'placed', hosts } });
  }
  const hosts = site.hosts.length;
  const waiting = site.leases.filter((lease) => lease.phase === 'waiting' && lease.startAtS === null && !starting.has(lease));
  const decisions: PlacementDecision[] = [
    ...starting.values(),
    ...waiting.map(
      (lease): PlacementDecision => ({
        row: queueRow(lease),
        verdict: { kind: 'waits', refusal: plannedRefusal(hosts), overtaken: 0 },
      }),
    ),
  ];
  const placed = await assignAddresses(deps, tx, decisions, hosts);
  const started = [...starting].flatMap(([lease, { verdict }]) => (verdict.kind === 'placed' ? [lease] : []));
  const now = isoNow(deps);
  await writePlacements(
    tx,
    now,
    placed,
    started.flatMap((lease) => lease.task?.id ?? []),
    changedRefusals(decisions),
  );
  const times = decision.starts.map(({ lease, workFromS, untilS }) => ({
    lease,
    from: isoFromSeconds(workFromS),
    until: isoFromSeconds(untilS),
  }));
  await tx.$executeRaw`
    UPDATE "Lease" l SET "runFrom" = s.from, "endAt" = CASE WHEN l."startAt" IS NOT NULL THEN s.until END
    FROM jsonb_to_recordset(${JSON.stringify(times)}::jsonb) AS s(lease text, "from" timestamptz, until timestamptz)
    WHERE l.id = s.lease AND l.id = ANY(${started.map(({ id }) => id)})`;
  for (const { id, startAtS, durationS } of started) {
    const until = decision.starts.find(({ lease }) => lease === id)!.untilS;
    if (startAtS !== null && Math.abs(until - startAtS - durationS) >= 1)
      await writeLeaseEvent(tx, id, leaseEventTypes.changed, now);
  }
  return started;
}

async function suspendLeases(tx: Transaction, { suspends }: SiteDecision): Promise<void> {
  if (suspends.length === 0) return;
  await tx.$executeRaw`
    UPDATE "Lease" l SET suspension = 'suspending', operation = s.operation, "leftS" = s."leftS", suspensions = suspensions + 1
    FROM jsonb_to_recordset(${JSON.stringify(suspends)}::jsonb) AS s(lease text, operation jsonb, "leftS" float8)
    WHERE l.id = s.lease`;
}

/** Allocates the capacity of leases that resume, so that no other VM is placed in it while their memory is read back. */
async function resumeLeases(
  tx: Transaction,
  site: LedgerSite,
  decision: SiteDecision,
  free: FreeCapacity,
): Promise<LedgerLease[]> {
  const leases = leasesById(site);
  const resumes = decision.resumes.filter(({ lease: id }) => {
    const lease = leases.get(id)!;
    return free.reserve(lease.hosts, { ...lease.perVm, diskMiB: 0 });
  });
  if (resumes.length === 0) return [];
  await tx.$executeRaw`
    WITH lease AS (
      UPDATE "Lease" l SET suspension = 'resuming', operation = r.operation
      FROM jsonb_to_recordset(${JSON.stringify(resumes)}::jsonb) AS r(lease text, operation jsonb)
      WHERE l.id = r.lease RETURNING l.id
    )
    UPDATE "Vm" SET state = 'restoring', generation = generation + 1 WHERE "leaseId" IN (SELECT id FROM lease) AND state = 'suspended'`;
  return resumes.map(({ lease }) => leases.get(lease)!);
}

/** Migrates suspended work cold, without its disks, to a host that has capacity for it; once in each suspension, also where it fails. */
async function migrateLeases(
  deps: LedgerDeps,
  tx: Transaction,
  site: LedgerSite,
  { moves }: SiteDecision,
): Promise<PlanStep['moves']> {
  const leases = leasesById(site);
  const accepted: PlanStep['moves'] = [];
  for (const { lease: id, to, operation } of moves) {
    const vm = leases.get(id)!.vms[0]!.id;
    const reason = `It was suspended for a promise, and can resume sooner on ${to}`;
    const request = { vm, to, mode: 'cold' as const, coldFallback: false, requestedBy: 'planner', reason, nowMs: deps.clock() };
    const migration = await tryAcceptMigration(tx, request);
    if (migration !== null) accepted.push(migration);
    await tx.$executeRaw`UPDATE "Lease" SET operation = ${JSON.stringify(operation)}::jsonb WHERE id = ${id}`;
  }
  return accepted;
}

function collectNotifications(
  site: LedgerSite,
  decision: SiteDecision,
  started: readonly LedgerLease[],
  resumed: readonly LedgerLease[],
  now: number,
): Omit<PlanStep, 'moves'> {
  const leases = leasesById(site);
  const tasks = (some: readonly (LedgerLease | undefined)[]): TaskId[] => [
    ...new Set(some.flatMap((lease) => lease?.task?.id ?? [])),
  ];
  const unnotified = site.leases.filter(
    ({ phase, task, vms }) => phase === 'running' && (task === null ? vms[0]!.state === 'reserved' : task.state === 'queued'),
  );
  const replanned = [...decision.promises.map(({ lease }) => lease), ...decision.broken].map((id) => leases.get(id));
  const slow = site.leases.filter(({ operation }) => operation !== null && operation.fromS + renotifyAfterS <= now);
  const suspended = decision.suspends.map(({ lease }) => leases.get(lease));
  return {
    placed: [
      ...new Set([...started, ...unnotified, ...replanned].flatMap((lease) => (lease === undefined ? [] : waiterOf(lease)))),
    ],
    leaseOrderChanged: tasks([...suspended, ...resumed, ...slow]),
    wakeAt: decision.wakeAtS === null ? null : isoFromSeconds(decision.wakeAtS),
    leases: site.leases.length + site.running.length,
  };
}
