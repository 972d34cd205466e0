import { z } from 'zod';
import { findPort, type PortRecord, readPorts } from '../../ledger/ports/read-ports.ts';
import { acceptPortOnce, changePortWithdrawn } from '../../ledger/ports/request-port.ts';
import { findVm } from '../../ledger/vms/read-vms.ts';
import type { PortProtocol } from '../../model/network/port-range.ts';
import { PortRequest, publicPortsOf } from '../../model/network/published-port.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import type { ApiDeps } from '../deps.ts';
import { json, noContent } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { Id } from '../schemas/common.ts';
import { PublishedPort } from '../schemas/ports.ts';

const OfPort = z.strictObject({ id: z.string().max(64), portId: z.string().max(64) });

function waitsFor({ state, address }: PortRecord): 'vm' | 'edge' | null {
  if (state === 'active') return null;
  return address === null ? 'vm' : 'edge';
}

function show(row: PortRecord): z.input<typeof PublishedPort> {
  return {
    id: row.id,
    owner: row.ownerId,
    vm: row.vmId,
    task: row.vm.taskId,
    port: row.port,
    protocol: row.protocol as PortProtocol,
    publicAddress: row.publicAddress,
    publicPort: row.publicPort,
    allow: row.allow,
    state: row.state,
    waitsFor: waitsFor(row),
    publishedAt: row.publishedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
  };
}

const pathOf = ({ vmId, id }: PortRecord): string => `/v1/vms/${vmId}/ports/${id}`;

export function portRoutes({ ledger, config, log, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'post',
      path: '/v1/vms/{id}/ports',
      id: 'publishPort',
      tag: 'ports',
      summary: 'Publish a port of a VM',
      description:
        'Clients reach it at `publicAddress` and `publicPort` once it is `active`, wherever the VM moves. The guest sees the address of an edge as that of its client; `allow` decides by the address of the client itself.',
      access: 'client',
      params: Id,
      body: PortRequest,
      answers: { 202: { description: 'Accepted', schema: PublishedPort, headers: { Location: 'The port' } } },
      problems: ['not-found', 'bad-request', 'conflict', 'quota-exceeded'],
      handle: async ({ caller, params, body, idempotencyKey }) => {
        const vm = await findVm(ledger, visibleOwner(caller), params.id);
        const idempotent = idempotentPost(caller, idempotencyKey, `/v1/vms/${vm.id}/ports`, body);
        const port = {
          owner: vm.ownerId,
          vm: vm.id,
          request: body,
          site: publicPortsOf(config.api),
          quotas: siteQuotas(config.api),
          nowMs: clock(),
        };
        const { answer, id, replayed } = await acceptPortOnce(ledger, idempotent, port, (row) =>
          json(202, show(row), pathOf(row)),
        );
        log.info({ portId: id, vmId: vm.id, owner: vm.ownerId, keyId: caller.keyId, replayed }, 'port accepted');
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/vms/{id}/ports',
      id: 'listVmPorts',
      tag: 'ports',
      summary: 'List the published ports of a VM, newest first',
      access: 'client',
      params: Id,
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(PublishedPort) } },
      problems: ['not-found'],
      handle: async ({ caller, params, query }) => {
        const { id } = await findVm(ledger, visibleOwner(caller), params.id);
        return json(200, await readPage('vm-ports', query, (page) => readPorts(ledger, null, id, page), show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/vms/{id}/ports/{portId}',
      id: 'getPort',
      tag: 'ports',
      summary: 'Describe a published port',
      access: 'client',
      params: OfPort,
      answers: { 200: { description: 'The port', schema: PublishedPort } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id, portId } }) =>
        json(200, show(await findPort(ledger, visibleOwner(caller), id, portId))),
    }),
    operation({
      method: 'delete',
      path: '/v1/vms/{id}/ports/{portId}',
      id: 'withdrawPort',
      tag: 'ports',
      summary: 'Withdraw a published port',
      description: 'What is open through it ends. It is gone once no edge leads there any more.',
      access: 'client',
      params: OfPort,
      answers: {
        202: { description: 'It will be withdrawn', schema: PublishedPort },
        204: { description: 'It is gone: no edge had it' },
      },
      problems: ['not-found'],
      handle: async ({ caller, params: { id, portId } }) => {
        const row = await changePortWithdrawn(ledger, visibleOwner(caller), id, portId);
        log.info({ portId, vmId: id, keyId: caller.keyId }, 'port withdrawn');
        return row === null ? noContent : json(202, show(row));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/ports',
      id: 'listPorts',
      tag: 'ports',
      summary: 'List published ports, newest first',
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(PublishedPort) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const owner = visibleOwner(caller);
        return json(200, await readPage('ports', query, (page) => readPorts(ledger, owner, null, page), show));
      },
    }),
  ];
}
