import { createHash } from 'node:crypto';
import type { DrainId } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { hostRemovedType } from '../../model/hosts/removed-event.ts';
import type { HostId, ImageId, TaskId, VmId } from '../../model/ids.ts';
import type { MigrationId } from '../../model/migration.ts';
import type { HostState } from '../../model/states.ts';
import { workflowId } from '../../model/temporal.ts';
import type { Ledger } from '../client.ts';
import { writeEvent } from '../events/write-event.ts';
import { keepVmAtSource, writeMigrationEnd } from '../migrations/end-migration.ts';
import { lockMigration } from '../migrations/migration-row.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, isoOf, requestLimits, type Transaction } from '../transaction.ts';
import { endDrain } from './end-drain.ts';
import { endBuild } from './end-image.ts';
import { endTaskWithVms } from './end-task.ts';
import { endVm, type RecordEnd } from './end-vm.ts';
import { requestWorkflowEnd } from './workflow-ends.ts';

/** What the ledger has on a host: it would end with a host that is declared lost. */
interface OnHost {
  state: HostState;
  provider: string;
  schedulable: boolean;
  seenAt: Date;
  tasks: TaskId[];
  /** Standalone VMs, and those that no task and no build has any more. */
  vms: VmId[];
  images: ImageId[];
  /** Those whose VM is elsewhere. */
  arriving: MigrationId[];
  drains: DrainId[];
  reservations: string[];
  fenced: VmId[];
}

export interface HostRemoval {
  declaredLost: boolean;
  /** The token of the refusal that has said what is lost; null: none yet. */
  confirm: string | null;
  /** The operator's owner id. */
  by: string;
  nowMs: number;
}

/**
 * Removes a host from the site: one that was drained, or one that is declared lost, whose tasks, VMs and builds end with it. Its
 * row stays for what names it, and is taken up again when it registers. Throws not-found; conflict for a host that is in use, or
 * that answers although it is declared lost; confirmation-needed with what is lost and the token that confirms just that.
 * @returns the hosts that have to confirm the end of a VM that was on both
 */
export async function changeHostRemoved(ledger: Ledger, id: string, removal: HostRemoval): Promise<HostId[]> {
  const work = async (tx: Transaction): Promise<HostId[]> => {
    await lockPlacement(tx);
    const host = id as HostId;
    const found = await readOnHost(tx, host);
    const now = isoOf(removal.nowMs);
    if (removal.declaredLost) refuseUnlessConfirmed(host, found, removal.confirm);
    else refuseUnlessEmpty(host, found);
    const fenced = removal.declaredLost ? await endAll(tx, host, found, removal.by, now) : [];
    await writeRemoval(tx, host, removal.declaredLost, now);
    const { tasks, vms, images, provider } = found;
    const data = { host, provider, declaredLost: removal.declaredLost, lost: { tasks, vms, images }, by: removal.by, at: now };
    await writeEvent(tx, { type: hostRemovedType, subject: id, owner: removal.by, time: now, data, n: removal.nowMs }, 'reject');
    return fenced.filter((other) => other !== host);
  };
  return inTransaction(ledger, work, requestLimits);
}

/** Before any account: a charge of one of them locks its bill first. */
async function lockBillsOf(tx: Transaction, { tasks, vms }: OnHost): Promise<void> {
  await tx.$queryRaw`
    SELECT b."leaseId" FROM "Bill" b WHERE b."leaseId" IN (
      SELECT "leaseId" FROM "Task" WHERE id = ANY(${tasks}) UNION ALL SELECT "leaseId" FROM "Vm" WHERE id = ANY(${vms}))
    ORDER BY 1 FOR NO KEY UPDATE`;
}

async function readOnHost(tx: Transaction, id: HostId): Promise<OnHost> {
  const rows = await tx.$queryRaw<OnHost[]>`
    WITH here AS (
      SELECT v.id, CASE WHEN t.state::text NOT IN ('succeeded', 'failed', 'cancelled') THEN t.id END AS task, i.id AS image
      FROM "Vm" v LEFT JOIN "Task" t ON t.id = v."taskId" LEFT JOIN "Image" i ON i."buildVmId" = v.id AND i.state = 'building'
      WHERE v.state NOT IN ('pending', 'removed') AND (v."hostId" = ${id} OR v."homeId" = ${id})
    )
    SELECT h.state, h.provider, h.schedulable, h."seenAt",
      ARRAY(SELECT DISTINCT task FROM here WHERE task IS NOT NULL ORDER BY 1) AS tasks,
      ARRAY(SELECT id FROM here WHERE task IS NULL AND image IS NULL ORDER BY 1) AS vms,
      ARRAY(SELECT image FROM here WHERE image IS NOT NULL ORDER BY 1) AS images,
      ARRAY(SELECT m.id FROM "Migration" m WHERE m.state IN ('running', 'stuck') AND m."toId" = h.id
        AND m."vmId" NOT IN (SELECT id FROM here) ORDER BY 1) AS arriving,
      ARRAY(SELECT d.id FROM "Drain" d WHERE d."hostId" = h.id AND d."finishedAt" IS NULL ORDER BY 1) AS drains,
      ARRAY(SELECT o."reservationId" FROM "HostHold" o JOIN "HostReservation" r ON r.id = o."reservationId"
        WHERE o."hostId" = h.id AND NOT o.released AND r."finishedAt" IS NULL ORDER BY 1) AS reservations,
      ARRAY(SELECT f."vmId" FROM "Fence" f WHERE f."hostId" = h.id ORDER BY 1) AS fenced
    FROM "Host" h WHERE h.id = ${id} AND h."removedAt" IS NULL FOR UPDATE OF h`;
  const row = rows[0];
  if (row === undefined) throw new BerthError('not-found', `There is no host ${id}`);
  return row;
}

const listed = (what: string, ids: readonly string[]): string[] =>
  ids.length === 0 ? [] : [`${what} ${ids.slice(0, 5).join(', ')}${ids.length > 5 ? ` and ${ids.length - 5} more` : ''}`];

function describe({ tasks, vms, images, arriving, drains, reservations, fenced }: OnHost): string[] {
  return [
    ...listed('tasks', tasks),
    ...listed('VMs', vms),
    ...listed('builds of images', images),
    ...listed('arriving migrations', arriving),
    ...listed('drains', drains),
    ...listed('reservations', reservations),
    ...listed('VMs whose end it has not confirmed:', fenced),
  ];
}

function refuseUnlessEmpty(id: HostId, found: OnHost): void {
  const inTheWay = describe(found);
  if (!found.schedulable && inTheWay.length === 0) return;
  const why = found.schedulable ? 'it is open to new work' : inTheWay.join('; ');
  throw new BerthError('conflict', `Host ${id} cannot be removed: ${why}. Drain it with moveDisks first, or declare it lost`);
}

function refuseUnlessConfirmed(id: HostId, found: OnHost, confirm: string | null): void {
  if (found.state === 'up')
    throw new BerthError(
      'conflict',
      `Host ${id} answers: it is not lost. Drain it, or end its worker and wait until it is unknown`,
    );
  const { tasks, vms, images, arriving, drains, reservations, fenced } = found;
  const lost = { tasks, vms, images };
  const all = JSON.stringify([id, found.seenAt.toISOString(), lost, arriving, drains, reservations, fenced]);
  const token = createHash('sha256').update(all).digest('hex').slice(0, 32);
  if (confirm === token) return;
  const what = describe(found).join('; ') || 'nothing of the ledger';
  const changed = confirm === null ? '' : ' What would be lost has changed since the token was given.';
  throw new BerthError('confirmation-needed', `With host ${id} is lost: ${what}.${changed} Repeat with confirm=${token}`, {
    extra: { lost, token },
  });
}

/** Ends all that was on a lost host. VMs that were to come there are where they were. */
async function endAll(tx: Transaction, host: HostId, found: OnHost, by: string, now: string): Promise<HostId[]> {
  const error = { code: 'vm-lost' as const, message: `Host ${host} was declared lost, and with it what was there` };
  const ending: RecordEnd & { by: string } = { error, now, lost: host, by };
  const fenced: HostId[] = [];
  await lockBillsOf(tx, found);
  for (const task of found.tasks) fenced.push(...((await endTaskWithVms(tx, task, ending)) ?? []));
  for (const image of found.images) fenced.push(...((await endBuild(tx, image, ending)) ?? []));
  for (const vm of found.vms) fenced.push(...(await endVm(tx, vm, ending)));
  for (const id of found.arriving) {
    const row = await lockMigration(tx, id);
    await writeMigrationEnd(tx, row, 'rolledBack', { downtimeMs: null, bytes: 0, phases: [], error }, now);
    if (row.reserved) await keepVmAtSource(tx, row, false);
    await requestWorkflowEnd(tx, workflowId.migration(row.vmId, row.generation), error.message, now);
  }
  for (const drain of found.drains) await endDrain(tx, drain, ending);
  await tx.fence.deleteMany({ where: { hostId: host } });
  return [...new Set(fenced)];
}

async function writeRemoval(tx: Transaction, id: HostId, declaredLost: boolean, now: string): Promise<void> {
  await tx.hostImage.deleteMany({ where: { hostId: id } });
  // One that was lost takes nothing when it returns, until an operator has looked at it. Its address is free for another host.
  await tx.$executeRaw`
    UPDATE "Host" SET "removedAt" = ${now}::timestamptz, state = 'unknown', schedulable = ${!declaredLost},
      "acceptsMigrations" = ${!declaredLost}, "vacantFrom" = NULL, "vacantUntil" = NULL, address = ${`removed:${id}`} WHERE id = ${id}`;
  const reason = `Host ${id} was removed`;
  for (const workflow of [workflowId.reconcile(id), workflowId.templates(id)])
    await requestWorkflowEnd(tx, workflow, reason, now);
  // A lost host that answers again registers, and its reconciliation removes what has ended meanwhile.
  if (!declaredLost) await requestWorkflowEnd(tx, workflowId.host(id), reason, now);
}
