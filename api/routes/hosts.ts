import { z } from 'zod';
import type { Host as HostRow } from '../../generated/prisma/client.ts';
import { readInPlaceOperations, releaseInPlace } from '../../ledger/drains/suspended-in-place.ts';
import { ledgerError } from '../../ledger/ledger-error.ts';
import { lockPlacement } from '../../ledger/placement/lock-placement.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { bestEffort } from '../http/best-effort.ts';
import { type Transaction, transactionLimits } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../http/page.ts';
import { Host, HostChange } from '../schemas.ts';

const Id = z.strictObject({ id: z.string() });

function show(row: HostRow): z.input<typeof Host> {
  return {
    id: row.id,
    address: row.address,
    provider: row.provider,
    state: row.state,
    schedulable: row.schedulable,
    acceptsMigrations: row.acceptsMigrations,
    capacity: { vcpus: row.vcpus, memoryMiB: row.memoryMiB, diskMiB: row.diskMiB },
    used: { vcpus: row.usedVcpus, memoryMiB: row.usedMemoryMiB, diskMiB: row.usedDiskMiB },
    cpuModel: row.cpuModel,
    accelerator: row.accelerator,
    hypervisor: row.hypervisor,
    seenAt: row.seenAt.toISOString(),
    createdAt: row.createdAt.toISOString(),
  };
}

export function hostRoutes({ ledger, temporal, log, clock }: ApiDeps): Operation[] {
  const unknown = (id: string) => new BerthError('not-found', `There is no host ${id}`);
  /** The change holds whatever becomes of this. */
  async function notifyHousekeeping(): Promise<void> {
    try {
      await temporal.notifyHousekeeping();
    } catch (error) {
      log.warn({ err: error }, 'the housekeeping could not be told; its next round places what fits');
    }
  }
  /** What drains have suspended there is to run again, before anybody is placed in its room. */
  async function releaseSuspended(tx: Transaction, host: string): Promise<VmId[]> {
    await lockPlacement(tx);
    const drains = await tx.drain.findMany({
      where: { hostId: host, finishedAt: { not: null }, suspensions: { some: { releasedAt: null } } },
      select: { id: true },
    });
    const ids = drains.map(({ id }) => id);
    const ending = await readInPlaceOperations(tx, ids, 'suspend');
    if (ending.length > 0)
      throw new BerthError('conflict', `${ending.join(', ')} on ${host} are still being suspended: open it when that is over`);
    return releaseInPlace(tx, ids, clock());
  }
  /** A host that is being emptied takes nothing: the ledger refuses, and says which drain it is. */
  const mapLedgerError = <T>(rows: Promise<T>): Promise<T> =>
    rows.catch((error: unknown) => {
      throw ledgerError(error) ?? error;
    });
  return [
    operation({
      method: 'get',
      path: '/v1/hosts',
      id: 'listHosts',
      tag: 'hosts',
      summary: 'List hosts, newest first',
      access: 'operator',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Host) } },
      problems: [],
      handle: async ({ query }) =>
        json(200, page('hosts', query.limit, await ledger.host.findMany(pageQuery('hosts', query)), show)),
    }),
    operation({
      method: 'get',
      path: '/v1/hosts/{id}',
      id: 'getHost',
      tag: 'hosts',
      summary: 'Describe a host',
      access: 'operator',
      params: Id,
      answers: { 200: { description: 'The host', schema: Host } },
      problems: ['not-found'],
      handle: async ({ params: { id } }) => {
        const row = await ledger.host.findUnique({ where: { id } });
        if (!row) throw unknown(id);
        return json(200, show(row));
      },
    }),
    operation({
      method: 'patch',
      path: '/v1/hosts/{id}',
      id: 'changeHost',
      tag: 'hosts',
      summary: 'Take a host out of scheduling, or back in',
      description:
        'VMs that are on the host stay. What waits and fits on a host that takes VMs again is placed soon; VMs that a drain has suspended there are restored first.',
      access: 'operator',
      params: Id,
      body: HostChange,
      answers: { 200: { description: 'The host after the change', schema: Host } },
      problems: ['not-found', 'conflict'],
      handle: async ({ params: { id }, body: { schedulable, acceptsMigrations }, caller }) => {
        const data = {
          ...(schedulable !== undefined && { schedulable }),
          ...(acceptsMigrations !== undefined && { acceptsMigrations }),
        };
        const { row, restored } = await mapLedgerError(
          ledger.$transaction(async (tx) => {
            const restored = schedulable === true ? await releaseSuspended(tx, id) : [];
            const [row] = await tx.host.updateManyAndReturn({ where: { id }, data });
            return { row, restored };
          }, transactionLimits),
        );
        if (!row) throw unknown(id);
        log.info({ hostId: id, keyId: caller.keyId, ...data, restored }, 'host changed by an operator');
        for (const vm of restored) await bestEffort(log, { vmId: vm }, () => temporal.notifyVm(vm));
        if (schedulable === true) await notifyHousekeeping();
        return json(200, show(row));
      },
    }),
  ];
}
