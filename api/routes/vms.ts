import { z } from 'zod';
import { changeVm } from '../../ledger/balance/change-vm.ts';
import { changeVmForceEnded } from '../../ledger/levers/force-end.ts';
import { acceptSession } from '../../ledger/vms/accept-session.ts';
import { findVm, readVms, type VmRecord } from '../../ledger/vms/read-vms.ts';
import { acceptOperationOnce, acceptVmOnce, changeVmRemovalRequested } from '../../ledger/vms/request-vm.ts';
import { consolePageBytes } from '../../model/console.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { publicPortsOf } from '../../model/network/published-port.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import { PlacementRules, rulesOrNone } from '../../model/placement/rules.ts';
import { parsePlace } from '../../model/streams/console.ts';
import { StoredVmRequest, unboundedDurationS, VmRequest, vmOperationNames, vmOperations } from '../../model/vm-request.ts';
import { consoleRange, sendConsole } from '../console.ts';
import type { ApiDeps } from '../deps.ts';
import { json, streamed } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { bestEffort } from '../http/best-effort.ts';
import { refuseBeyondHorizon } from '../http/horizon.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { asksWebSocket } from '../http/upgrade.ts';
import { afterLever, forceEndOf } from '../levers.ts';
import { Id } from '../schemas/common.ts';
import { ForceEndOrder } from '../schemas/levers.ts';
import { Vm, VmChange } from '../schemas/vms.ts';
import { newSession } from '../streams/sessions.ts';

/** JSON and text columns of the ledger, parsed by the schemas of what is shown. */
const storedJson = { boot: Vm.shape.boot, waiting: Vm.shape.waiting, problem: Vm.shape.problem };

const ConsoleQuery = z.strictObject({
  tail: z.coerce
    .number()
    .int()
    .min(1)
    .max(consolePageBytes)
    .default(64 * 1024)
    .meta({ description: 'How many bytes from the end; a Range takes precedence' }),
  place: z
    .string()
    .max(200)
    .transform((text) => parsePlace(text))
    .refine((place) => place !== null, { error: 'expected a place that the console has told' })
    .optional()
    .meta({ description: 'With an upgrade: what the client has already, as channel 5 has told it' }),
  write: z
    .enum(['true', 'false'])
    .default('false')
    .meta({ description: 'With an upgrade: take the keyboard over from another client' }),
});

/** Before its first start there is none; of one that has stopped what it has written can be read, without an upgrade. */
function requireConsole({ id, state }: VmRecord): void {
  if (['running', 'paused', 'migrating', 'creating'].includes(state)) return;
  throw new BerthError('conflict', `VM ${id} is ${state}: its console can only be read`);
}

function leaseOf({ order, lease }: VmRecord): z.input<typeof Vm>['lease'] {
  if (order === null || lease === null) return null;
  const { kind, startedAt, startAt, endAt } = lease;
  const durationS = lease.durationS === unboundedDurationS ? null : lease.durationS;
  const ends = endAt ?? (startedAt === null || durationS === null ? null : new Date(startedAt.getTime() + durationS * 1000));
  return { kind, startsAt: startAt?.toISOString() ?? null, durationS, endsAt: ends?.toISOString() ?? null };
}

function show(row: VmRecord): z.input<typeof Vm> {
  return {
    id: row.id,
    owner: row.ownerId,
    name: row.name,
    state: row.state,
    pausedBy: row.pausedBy,
    silentSince: row.silentSince?.toISOString() ?? null,
    resources: { vcpus: row.vcpus, memoryMiB: row.memoryMiB, diskMiB: row.diskMiB },
    host: row.hostId,
    home: row.homeId,
    address: row.address,
    generation: row.generation,
    task: row.taskId,
    node: row.node,
    boot: row.boot === null ? null : storedJson.boot.parse({ kind: row.boot, why: row.bootWhy }),
    lease: leaseOf(row),
    restart: row.order === null ? null : StoredVmRequest.parse(row.order).restart,
    operation: row.operation,
    waiting: row.state === 'pending' ? storedJson.waiting.parse(row.refusal) : null,
    hostKey: row.hostKey,
    removalRequestedAt: row.removalRequestedAt?.toISOString() ?? null,
    problem: storedJson.problem.parse(row.problem),
    pinned: row.pinned,
    keep: row.keep,
    ...rulesOrNone(PlacementRules.nullable().parse(row.rules)),
    startedAt: row.startedAt?.toISOString() ?? null,
    endedAt: row.endedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
  };
}

export function vmRoutes(deps: ApiDeps): Operation[] {
  const { ledger, temporal, sessions, config, log, clock } = deps;
  const operate = (name: (typeof vmOperationNames)[number]) =>
    operation({
      method: 'post',
      path: `/v1/vms/{id}/${name}`,
      id: `${name}Vm`,
      tag: 'vms',
      summary: `${name[0]?.toUpperCase()}${name.slice(1)} a VM`,
      description: `Of a standalone VM that is ${vmOperations[name].from.join(' or ')}. One operation at a time: another one is refused while its \`operation\` is not null.`,
      access: 'client',
      params: Id,
      answers: { 200: { description: 'It is so already', schema: Vm }, 202: { description: 'It will be done', schema: Vm } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params, idempotencyKey }) => {
        const { id } = await findVm(ledger, visibleOwner(caller), params.id);
        const request = idempotentPost(caller, idempotencyKey, `/v1/vms/${id}/${name}`, undefined);
        const operation = { id, operation: name, nowMs: clock() };
        const { answer } = await acceptOperationOnce(ledger, request, operation, (row, begins) =>
          json(begins ? 202 : 200, show(row), `/v1/vms/${id}`),
        );
        log.info({ vmId: id, operation: name, keyId: caller.keyId }, 'operation accepted');
        if (answer.status === 202) await bestEffort(log, { vmId: id }, () => temporal.notifyVm(id as VmId));
        return answer;
      },
    });

  return [
    operation({
      method: 'post',
      path: '/v1/vms',
      id: 'createVm',
      tag: 'vms',
      summary: 'Create a standalone VM',
      description:
        'It waits for a host, boots, and runs until it is deleted or its lease ends. A lease with a fixed start is promised, or refused with 409 `lease-refused` and up to three `alternatives`.',
      access: 'client',
      body: VmRequest,
      maxBodyBytes: 2 ** 20,
      answers: { 202: { description: 'Accepted', schema: Vm, headers: { Location: 'The VM' } } },
      problems: [
        'image-unknown',
        'file-unknown',
        'does-not-fit',
        'lease-refused',
        'quota-exceeded',
        'conflict',
        'insufficient-funds',
        'amount-out-of-bounds',
        'quote-refused',
        'offer-refused',
      ],
      handle: async ({ caller, body, idempotencyKey }) => {
        const { ownerId: owner, keyId } = caller;
        refuseBeyondHorizon(clock(), { '/lease/startAt': body.lease.startAt });
        const request = idempotentPost(caller, idempotencyKey, '/v1/vms', body);
        const publicPorts = publicPortsOf(config.api);
        const vm = { owner, order: body, keyId, quotas: siteQuotas(config.api), publicPorts, nowMs: clock() };
        const { answer, id, replayed } = await acceptVmOnce(ledger, request, vm, (row) =>
          json(202, show(row), `/v1/vms/${row.id}`),
        );
        log.info({ vmId: id, owner, keyId, replayed }, 'VM accepted');
        // Also on a repeated request: the first one may have crashed before this.
        await bestEffort(log, { vmId: id }, () => temporal.startVm(id as VmId));
        return answer;
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/vms/{id}',
      id: 'deleteVm',
      tag: 'vms',
      summary: 'Delete a VM',
      description: 'In every state, also while it is being created or an operation is under way, which is finished first.',
      access: 'client',
      params: Id,
      answers: {
        200: { description: 'It was removed already', schema: Vm },
        202: { description: 'It will be removed', schema: Vm },
      },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params }) => {
        const row = await findVm(ledger, visibleOwner(caller), params.id);
        if (row.order === null)
          throw new BerthError('conflict', `VM ${row.id} belongs to the task ${row.taskId}: cancel that, and it is removed`);
        if (row.state === 'removed') return json(200, show(row));
        const id = row.id as VmId;
        await changeVmRemovalRequested(ledger, id, clock());
        log.info({ vmId: id, owner: row.ownerId, keyId: caller.keyId }, 'removal requested');
        await bestEffort(log, { vmId: id }, () => temporal.notifyVm(id));
        return json(202, show(await findVm(ledger, row.ownerId, id)));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/vms/{id}/console',
      id: 'readConsole',
      tag: 'vms',
      summary: "Read a VM's console",
      description: `What its guest wrote to its serial port: the last 2 to 4 MiB on its present host, and before them the last MiB of what it wrote elsewhere. One answer has at most ${consolePageBytes} bytes; a \`Range\` of one interval reads any other part.`,
      access: 'client',
      params: Id,
      query: ConsoleQuery,
      answers: {
        101: { description: 'With an upgrade: the console both ways, as it is written (docs/exec.md)' },
        200: { description: 'Its end', media: 'text/plain' },
        206: { description: 'The range', media: 'text/plain', headers: { 'Content-Range': 'Which bytes, and of how many' } },
      },
      problems: ['not-found', 'conflict', 'forbidden', 'range-not-satisfiable', 'host-unavailable', 'host-busy', 'unavailable'],
      handle: async ({ req, res, caller, params, query }) => {
        const vm = await findVm(ledger, visibleOwner(caller), params.id);
        const { id } = vm;
        if (asksWebSocket(req)) {
          requireConsole(vm);
          await sessions.openConsole(req, res, caller, {
            vm: { id: id as VmId, ownerId: vm.ownerId },
            place: query.place ?? null,
            tailBytes: query.tail,
            write: query.write === 'true',
            accept: () =>
              acceptSession(ledger, {
                vm: id as VmId,
                key: caller.keyId,
                session: newSession(),
                kind: 'console',
                nowMs: clock(),
              }),
          });
          return streamed;
        }
        sendConsole(req, res, await temporal.readConsole(id as VmId, consoleRange(req, query.tail)));
        return streamed;
      },
    }),
    operation({
      method: 'post',
      path: '/v1/vms/{id}/force-end',
      id: 'forceEndVm',
      tag: 'vms',
      summary: 'End a VM that nothing else ends',
      description:
        'A standalone VM, or one that its ended task or build has left behind: it is `removed` with its event and its usage until now, in one transaction, and its name and quotas are free. What it takes of its hosts, and its address, stay fenced until each host has confirmed that nothing of it is left.',
      access: 'operator',
      params: Id,
      body: ForceEndOrder,
      answers: { 200: { description: 'The VM, which is removed', schema: Vm } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { id }, body }) => {
        const { record, fenced } = await changeVmForceEnded(ledger, id, forceEndOf(caller, body, clock()));
        await afterLever(deps, { vmId: id }, caller, fenced);
        return json(200, show(record));
      },
    }),
    ...vmOperationNames.map(operate),
    operation({
      method: 'patch',
      path: '/v1/vms/{id}',
      id: 'changeVm',
      tag: 'vms',
      summary: 'Change how the balancer treats a VM, and where it may run',
      description:
        'An operator drains its host all the same, and a migration that is asked for is made. Rules hold for its next host: nothing moves for them.',
      access: 'client',
      params: Id,
      body: VmChange,
      answers: { 200: { description: 'The VM after the change', schema: Vm } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { id }, body }) => json(200, show(await changeVm(ledger, visibleOwner(caller), id, body))),
    }),
    operation({
      method: 'get',
      path: '/v1/vms',
      id: 'listVms',
      tag: 'vms',
      summary: 'List VMs, newest first',
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Vm) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const owner = visibleOwner(caller);
        return json(200, await readPage('vms', query, (page) => readVms(ledger, owner, page), show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/vms/{id}',
      id: 'getVm',
      tag: 'vms',
      summary: 'Describe a VM',
      access: 'client',
      params: Id,
      answers: { 200: { description: 'The VM', schema: Vm } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => json(200, show(await findVm(ledger, visibleOwner(caller), id))),
    }),
  ];
}
