import type { z } from 'zod';
import { changeHost } from '../../ledger/hosts/change-host.ts';
import { findHost, type HostRecord, readHosts } from '../../ledger/hosts/read-hosts.ts';
import { changeHostRemoved } from '../../ledger/levers/remove-host.ts';
import { HostLabels } from '../../model/placement/rules.ts';
import type { ApiDeps } from '../deps.ts';
import { json, noContent } from '../http/answer.ts';
import { bestEffort } from '../http/best-effort.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { afterLever } from '../levers.ts';
import { Id } from '../schemas/common.ts';
import { Host, HostChange } from '../schemas/hosts.ts';
import { HostRemovalQuery } from '../schemas/levers.ts';

function show(row: HostRecord): z.input<typeof Host> {
  return {
    id: row.id,
    address: row.address,
    provider: row.provider,
    state: row.state,
    schedulable: row.schedulable,
    acceptsMigrations: row.acceptsMigrations,
    conditions: row.clockOff ? ['clockOff'] : [],
    clockOffsetMs: row.clockOffsetMs,
    capacity: { vcpus: row.vcpus, memoryMiB: row.memoryMiB, diskMiB: row.diskMiB },
    used: { vcpus: row.usedVcpus, memoryMiB: row.usedMemoryMiB, diskMiB: row.usedDiskMiB },
    fenced: row.fences.map(({ vmId, createdAt }) => ({ vm: vmId, since: createdAt.toISOString() })),
    cpuModel: row.cpuModel,
    accelerator: row.accelerator,
    hypervisor: row.hypervisor,
    heartbeatS: row.heartbeatS,
    labels: HostLabels.parse(row.labels),
    balance: row.balance,
    seenAt: row.seenAt.toISOString(),
    createdAt: row.createdAt.toISOString(),
  };
}

export function hostRoutes(deps: ApiDeps): Operation[] {
  const { ledger, temporal, log, clock } = deps;
  return [
    operation({
      method: 'delete',
      path: '/v1/hosts/{id}',
      id: 'removeHost',
      tag: 'hosts',
      summary: 'Remove a host from the site',
      description:
        'One that was drained, disks included. With `declaredLost` one that is `unknown` and will not return: 409 `confirmation-needed` says what ends with it and has a `token`; with `confirm` it is done. A host that registers again is taken up again: closed, where it was declared lost.',
      access: 'operator',
      params: Id,
      query: HostRemovalQuery,
      answers: { 204: { description: 'Removed' } },
      problems: ['not-found', 'conflict', 'confirmation-needed'],
      handle: async ({ caller, params: { id }, query: { declaredLost, confirm } }) => {
        const removal = { declaredLost: declaredLost === 'true', confirm: confirm ?? null, by: caller.ownerId, nowMs: clock() };
        const fenced = await changeHostRemoved(ledger, id, removal);
        await afterLever(deps, { hostId: id, removal: removal.declaredLost ? 'lost' : 'drained' }, caller, fenced);
        return noContent;
      },
    }),
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
      handle: async ({ query }) => json(200, await readPage('hosts', query, (page) => readHosts(ledger, page), show)),
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
      handle: async ({ params: { id } }) => json(200, show(await findHost(ledger, id))),
    }),
    operation({
      method: 'patch',
      path: '/v1/hosts/{id}',
      id: 'changeHost',
      tag: 'hosts',
      summary: 'Take a host out of scheduling, or back in, or label it',
      description:
        'VMs that are on the host remain there. A host that takes VMs again gets waiting ones that fit soon; VMs that a drain has suspended there are restored first.',
      access: 'operator',
      params: Id,
      body: HostChange,
      answers: { 200: { description: 'The host after the change', schema: Host } },
      problems: ['not-found', 'conflict'],
      handle: async ({ params: { id }, body, caller }) => {
        const { host, restored } = await changeHost(ledger, id, body, clock());
        log.info({ hostId: id, keyId: caller.keyId, ...body, restored }, 'host changed by an operator');
        for (const vm of restored) await bestEffort(log, { vmId: vm }, () => temporal.notifyVm(vm));
        if (body.schedulable === true) await bestEffort(log, { hostId: id }, () => temporal.notifyHousekeeping());
        return json(200, show(host));
      },
    }),
  ];
}
