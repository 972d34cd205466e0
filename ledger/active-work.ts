import type { ActiveWork, ActiveWorkCursor } from '../contracts/ledger.ts';
import { Prisma } from '../generated/prisma/client.ts';
import type { DrainId } from '../model/drain.ts';
import type { HostId, ImageId, VmId } from '../model/ids.ts';
import type { MigrationId } from '../model/migration.ts';
import type { ReservationId } from '../model/reservation.ts';
import type { LedgerDeps } from './transaction.ts';

/** Small, because Temporal has to refuse a second workflow for each row of a page. */
const pageRows = 20;

const page = { orderBy: { id: 'asc' }, take: pageRows } as const;
const isAfter = (id: string | null) => (id === null ? {} : { id: { gt: id } });

/** The id at which the next page begins. */
function lastOf<T extends { id: string }>(rows: T[]): T['id'] | null {
  return rows.length < pageRows ? null : (rows.at(-1)?.id ?? null);
}

/** One page of each kind of work that has begun and not ended; of tasks listActiveTasks has them. */
export async function listActiveWork({ ledger }: LedgerDeps, after: ActiveWorkCursor): Promise<ActiveWork> {
  const [vms, migrations, drains, reservations, builds, hosts] = await Promise.all([
    ledger.vm.findMany({
      where: { order: { not: Prisma.AnyNull }, workflowAt: { not: null }, state: { not: 'removed' }, ...isAfter(after.vm) },
      select: { id: true },
      ...page,
    }),
    ledger.migration.findMany({
      where: {
        state: { in: ['running', 'stuck'] },
        OR: [{ reserved: true }, { committedAt: { not: null } }, { waiting: { not: null } }],
        ...isAfter(after.migration),
      },
      select: { id: true, vmId: true, generation: true },
      ...page,
    }),
    ledger.drain.findMany({
      where: { finishedAt: null, workflowAt: { not: null }, ...isAfter(after.drain) },
      select: { id: true, hostId: true, number: true },
      ...page,
    }),
    ledger.hostReservation.findMany({
      where: { finishedAt: null, workflowAt: { not: null }, ...isAfter(after.reservation) },
      select: { id: true },
      ...page,
    }),
    ledger.image.findMany({
      // A build whose image is ready, or failed, has its VM to remove yet.
      where: {
        workflowAt: { not: null },
        OR: [{ state: 'building' }, { buildVm: { state: { notIn: ['pending', 'removed'] } } }],
        ...isAfter(after.build),
      },
      select: { id: true, name: true, digest: true },
      ...page,
    }),
    ledger.host.findMany({ where: { removedAt: null, ...isAfter(after.host) }, select: { id: true }, ...page }),
  ]);
  return {
    vms: vms.map(({ id }) => id as VmId),
    migrations: migrations.map(({ id, vmId, generation }) => ({ id: id as MigrationId, vmId: vmId as VmId, generation })),
    drains: drains.map(({ id, hostId, number }) => ({ id: id as DrainId, host: hostId as HostId, number })),
    reservations: reservations.map(({ id }) => id as ReservationId),
    builds: builds.map((row) => ({ ...row, id: row.id as ImageId })),
    hosts: hosts.map(({ id }) => id as HostId),
    next: {
      vm: lastOf(vms) as VmId | null,
      migration: lastOf(migrations) as MigrationId | null,
      drain: lastOf(drains) as DrainId | null,
      reservation: lastOf(reservations) as ReservationId | null,
      build: lastOf(builds) as ImageId | null,
      host: lastOf(hosts) as HostId | null,
    },
  };
}
