import type { Notification, PlanStep } from '../../contracts/ledger.ts';
import { leaseEventTypes } from '../../model/events.ts';
import type { Resources } from '../../model/host.ts';
import type { TaskId, WaiterId } from '../../model/ids.ts';
import { changedFacts, withoutStale } from '../../scheduler/leases/site/plan-acts.ts';
import type { SiteDecision } from '../../scheduler/leases/site/site-plan.ts';
import { tryAcceptMigration } from '../migrations/accept-migration.ts';
import { assignAddresses, type PlacementDecision } from '../placement/assign-addresses.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { changedRefusals, placeUnderLock, plannedRefusal, writePlacements } from '../placement/place-queue.ts';
import { isPlanned, type QueueRow } from '../placement/read-waiting.ts';
import { openRules } from '../placement/started-rules.ts';
import { inTransaction, isoNow, isoOf, type LedgerDeps, type Transaction } from '../transaction.ts';
import { writeLeaseEvent } from './lease-event.ts';
import type { LedgerLease } from './plan/ledger-site.ts';
import { inPlan } from './plan/plan-thread.ts';
import { readFacts } from './plan/read-facts.ts';
import { readSite } from './plan/read-site.ts';
import type { StepPlan } from './plan/step.ts';
import { writePromises } from './write-promises.ts';

/** A workflow that does not report a suspension or resumption as done is notified again after this time. */
const renotifyAfterS = 5;
/** Plans of a step that are made outside of the placement lock; what they could not apply is planned under it. */
const triesOutsideLock = 3;

const isWaiter = (one: Notification): one is WaiterId => one !== 'planner';
const isoFromSeconds = (seconds: number): string => isoOf(Math.round(seconds * 1000));

/**
 * Executes what is due by the plan: writes starts, suspensions, resumptions and migrations as rows. The plan is made from the
 * rows themselves, so a lost step is decided again by the next one. Returns the workflows to notify, and when the next
 * decision is due.
 *
 * The plan is made outside of the placement lock, from what is read then, and applied in one transaction under it. Acts that
 * rely on something that has changed meanwhile are left out, and planned again.
 */
export async function stepPlan(deps: LedgerDeps): Promise<PlanStep> {
  if (!(await isPlanned(deps.ledger, isoNow(deps)))) {
    const pass = await placeUnderLock(deps);
    if (!pass.planned) return { placed: pass.notify.filter(isWaiter), leaseOrderChanged: [], moves: [], wakeAt: null, leases: 0 };
  }
  const steps: PlanStep[] = [];
  while (steps.length < triesOutsideLock) {
    const plan = await planNow(deps, deps.ledger);
    const applied = writesNothing(plan)
      ? { step: { ...collectNotifications(plan, plan.decision, [], []), moves: [] }, refused: [] }
      : await inTransaction(deps.ledger, (tx) => applyPlan(deps, tx, plan));
    steps.push(applied.step);
    if (applied.refused.length === 0) return lastOf(steps);
  }
  await inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    steps.push((await applyPlan(deps, tx, await planNow(deps, tx))).step);
  });
  return lastOf(steps);
}

interface TimedPlan extends StepPlan {
  now: number;
}

/** Plans with the leases that stand in the way of a promise which is due, and only these. */
export async function planNow(deps: LedgerDeps, tx: Transaction): Promise<TimedPlan> {
  const now = deps.clock() / 1000;
  const listed = new Set<string>();
  for (;;) {
    const plan = await inPlan('step', await readSite(tx, { hosts: [...listed], others: 'ending' }), now);
    const more = plan.decision.hostsToList.filter((host) => !listed.has(host));
    if (more.length === 0) return { ...plan, now };
    for (const host of more) listed.add(host);
  }
}

/** What several tries have done, and when the last one has to be followed. */
function lastOf(steps: readonly PlanStep[]): PlanStep {
  return {
    ...steps.at(-1)!,
    placed: [...new Set(steps.flatMap(({ placed }) => placed))],
    leaseOrderChanged: [...new Set(steps.flatMap(({ leaseOrderChanged }) => leaseOrderChanged))],
    moves: steps.flatMap(({ moves }) => moves),
  };
}

/** Most steps of a site where promises lie ahead and nothing waits: they need no lock. */
const writesNothing = (plan: StepPlan): boolean =>
  plan.groups.leases.size === 0 && changedRefusals(waitingDecisions(plan, new Map())).length === 0;

/** The best-effort leases that wait, because the plan starts them later. */
function waitingDecisions({ leases, hosts }: StepPlan, starting: ReadonlyMap<LedgerLease, unknown>): PlacementDecision[] {
  const waiting = leases.filter((lease) => lease.phase === 'waiting' && lease.startAtS === null && !starting.has(lease));
  return waiting.map((lease) => ({
    row: queueRow(lease),
    verdict: { kind: 'waits', refusal: plannedRefusal(hosts), overtaken: 0 },
  }));
}

/**
 * Applies what still holds of a plan, however old it is.
 * @returns the leases whose acts were left out as well
 */
export async function applyPlan(
  deps: LedgerDeps,
  tx: Transaction,
  plan: TimedPlan,
): Promise<{ step: PlanStep; refused: string[] }> {
  await lockPlacement(tx);
  const current = await readFacts(tx, plan.groups);
  const { decision, refused } = withoutStale(plan.decision, plan.groups, changedFacts(plan.facts, current.facts));
  const freeCapacity = new FreeCapacity(current.hosts);
  const started = await startLeases(deps, tx, plan, decision, freeCapacity);
  await suspendLeases(tx, decision);
  const resumed = await resumeLeases(tx, plan, decision, freeCapacity);
  const moves = await migrateLeases(deps, tx, plan, decision);
  await writePromises(tx, decision.promises);
  return { step: { ...collectNotifications(plan, decision, started, resumed), moves }, refused };
}

/** The capacity that is free by the ledger's own sums, which are exact where the plan's prediction of this moment may not be. */
class FreeCapacity {
  readonly #used: Map<string, Resources>;
  readonly #capacity: Map<string, Resources>;

  constructor(hosts: readonly { id: string; capacity: Resources; used: Resources }[]) {
    this.#used = new Map(hosts.map(({ id, used }) => [id, used]));
    this.#capacity = new Map(hosts.map(({ id, capacity }) => [id, capacity]));
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

const leasesById = ({ leases }: StepPlan): Map<string, LedgerLease> => new Map(leases.map((lease) => [lease.id, lease]));

/** The task, or the standalone VM, whose workflow waits for the lease. */
const waiterOf = ({ task, vms }: LedgerLease): WaiterId => task?.id ?? vms[0]!.id;

function queueRow(lease: LedgerLease): QueueRow {
  const { owner, imageId, perVm: each, vms } = lease;
  return {
    id: waiterOf(lease),
    owner,
    overtaken: 0,
    refusal: lease.refusal,
    imageId,
    each,
    vms,
    hostCosts: null,
    rules: lease.rules,
  };
}

/** Places the leases that start now, and records why the others wait. Returns those that were placed. */
async function startLeases(
  deps: LedgerDeps,
  tx: Transaction,
  plan: TimedPlan,
  decision: SiteDecision,
  free: FreeCapacity,
): Promise<LedgerLease[]> {
  const leases = leasesById(plan);
  const starting = new Map<LedgerLease, PlacementDecision>();
  const rules = await openRules(
    tx,
    decision.starts.map(({ lease }) => leases.get(lease)!),
  );
  for (const { lease: id, hosts } of decision.starts) {
    const lease = leases.get(id)!;
    if (!rules.allow(lease, hosts) || !free.reserve(hosts, lease.perVm)) continue;
    rules.take(lease, hosts);
    starting.set(lease, { row: queueRow(lease), verdict: { kind: 'placed', hosts } });
  }
  const decisions = [...starting.values(), ...waitingDecisions(plan, starting)];
  const placed = await assignAddresses(deps, tx, decisions, plan.hosts);
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
  plan: TimedPlan,
  decision: SiteDecision,
  free: FreeCapacity,
): Promise<LedgerLease[]> {
  const leases = leasesById(plan);
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
  plan: TimedPlan,
  { moves }: SiteDecision,
): Promise<PlanStep['moves']> {
  const leases = leasesById(plan);
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
  plan: TimedPlan,
  decision: SiteDecision,
  started: readonly LedgerLease[],
  resumed: readonly LedgerLease[],
): Omit<PlanStep, 'moves'> {
  const leases = leasesById(plan);
  const tasks = (some: readonly (LedgerLease | undefined)[]): TaskId[] => [
    ...new Set(some.flatMap((lease) => lease?.task?.id ?? [])),
  ];
  const unnotified = plan.leases.filter(
    ({ phase, task, vms }) => phase === 'running' && (task === null ? vms[0]!.state === 'reserved' : task.state === 'queued'),
  );
  const replanned = [...decision.promises.map(({ lease }) => lease), ...decision.broken].map((id) => leases.get(id));
  const slow = plan.leases.filter(({ operation }) => operation !== null && operation.fromS + renotifyAfterS <= plan.now);
  const suspended = decision.suspends.map(({ lease }) => leases.get(lease));
  return {
    placed: [
      ...new Set([...started, ...unnotified, ...replanned].flatMap((lease) => (lease === undefined ? [] : waiterOf(lease)))),
    ],
    leaseOrderChanged: tasks([...suspended, ...resumed, ...slow]),
    wakeAt: decision.wakeAtS === null ? null : isoFromSeconds(decision.wakeAtS),
    leases: plan.leases.length + plan.running,
  };
}
