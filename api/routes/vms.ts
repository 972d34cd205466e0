import { z } from 'zod';
import type { Prisma } from '../../generated/prisma/client.ts';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import { consolePageBytes } from '../../model/console.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { coldBootReasons } from '../../model/vm.ts';
import { unboundedDurationS, VmRequest, vmOperationNames, vmOperations } from '../../model/vm-request.ts';
import { consoleRange, sendConsole } from '../console.ts';
import type { ApiDeps } from '../deps.ts';
import { json, streamed } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { bestEffort } from '../http/best-effort.ts';
import { fingerprint, runOnce, type Transaction } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../http/page.ts';
import { Vm } from '../schemas.ts';

const Boot = z.strictObject({ kind: z.enum(['warm', 'cold']), why: z.enum(coldBootReasons).nullable() });
const Problem = z.record(z.string(), z.unknown()).nullable();

const Id = z.strictObject({ id: z.string() });

const ConsoleQuery = z.strictObject({
  tail: z.coerce
    .number()
    .int()
    .min(1)
    .max(consolePageBytes)
    .default(64 * 1024)
    .meta({ description: 'The last so many bytes; a Range goes before it' }),
});

const withLease = { lease: { select: { kind: true, durationS: true, startedAt: true, startAt: true, endAt: true } } } as const;
type VmRow = Prisma.VmGetPayload<{ include: typeof withLease }>;

function leaseOf({ order, lease }: VmRow): z.input<typeof Vm>['lease'] {
  if (order === null || lease === null) return null;
  const { kind, startedAt, startAt, endAt } = lease;
  const durationS = lease.durationS === unboundedDurationS ? null : lease.durationS;
  const ends = endAt ?? (startedAt === null || durationS === null ? null : new Date(startedAt.getTime() + durationS * 1000));
  return { kind, startsAt: startAt?.toISOString() ?? null, durationS, endsAt: ends?.toISOString() ?? null };
}

function show(row: VmRow): z.input<typeof Vm> {
  return {
    id: row.id,
    owner: row.ownerId,
    name: row.name,
    state: row.state,
    resources: { vcpus: row.vcpus, memoryMiB: row.memoryMiB, diskMiB: row.diskMiB },
    host: row.hostId,
    home: row.homeId,
    address: row.address,
    generation: row.generation,
    task: row.taskId,
    node: row.node,
    boot: row.boot === null ? null : Boot.parse({ kind: row.boot, why: row.bootWhy }),
    lease: leaseOf(row),
    operation: row.operation,
    waiting: row.state === 'pending' ? Vm.shape.waiting.parse(row.refusal) : null,
    hostKey: row.hostKey,
    removalRequestedAt: row.removalRequestedAt?.toISOString() ?? null,
    problem: Problem.parse(row.problem),
    startedAt: row.startedAt?.toISOString() ?? null,
    endedAt: row.endedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
  };
}

/** Bounds how many an owner has. Its accepts follow each other, so the bound is exact. */
async function refuseTooManyVms(tx: Transaction, ownerId: string, most: number): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('berth vms ' || ${ownerId}, 0))`;
  const owner = await tx.owner.findUniqueOrThrow({ where: { id: ownerId }, select: { maxVms: true } });
  const limit = owner.maxVms ?? most;
  const mine = await tx.vm.count({ where: { ownerId, taskId: null, state: { not: 'removed' } } });
  if (mine >= limit) throw new BerthError('quota-exceeded', `This owner has ${mine} VMs, of at most ${limit}; delete some`);
}

export function vmRoutes({ ledger, temporal, config, log, clock }: ApiDeps): Operation[] {
  const visible = (caller: Caller) => (caller.role === 'operator' ? {} : { ownerId: caller.ownerId });

  async function find(caller: Caller, id: string, tx: Transaction = ledger): Promise<VmRow> {
    const row = await tx.vm.findFirst({ where: { id, ...visible(caller) }, include: withLease });
    if (!row) throw new BerthError('not-found', `There is no VM ${id}`);
    return row;
  }

  const operate = (name: (typeof vmOperationNames)[number]) =>
    operation({
      method: 'post',
      path: `/v1/vms/{id}/${name}`,
      id: `${name}Vm`,
      tag: 'vms',
      summary: `${name[0]?.toUpperCase()}${name.slice(1)} a VM`,
      description: `Of a VM that stands alone and is ${vmOperations[name].from.join(' or ')}. One operation at a time: another one is refused until this one is over, which its \`operation\` says.`,
      access: 'client',
      params: Id,
      answers: { 200: { description: 'It is so already', schema: Vm }, 202: { description: 'It will be done', schema: Vm } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params, idempotencyKey: key }) => {
        const { id } = await find(caller, params.id);
        const path = `/v1/vms/${id}/${name}`;
        const claim = { ownerId: caller.ownerId, key, method: 'POST', path, fingerprint: fingerprint('') };
        const { answer } = await runOnce(ledger, claim, async (tx) => {
          const begins = await acceptOperation(tx, id, name, clock());
          return json(begins ? 202 : 200, show(await find(caller, id, tx)), `/v1/vms/${id}`);
        });
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
      summary: 'Make a VM that lasts',
      description:
        'It waits for a host, boots, and is there until it is deleted or its lease ends. A lease with a fixed start is promised, or refused with 409 `lease-refused` and up to three `alternatives`.',
      access: 'client',
      body: VmRequest,
      answers: { 202: { description: 'Accepted', schema: Vm, headers: { Location: 'The VM' } } },
      problems: ['image-unknown', 'file-unknown', 'does-not-fit', 'lease-refused', 'quota-exceeded', 'conflict'],
      handle: async ({ req, caller, body, idempotencyKey: key }) => {
        const { ownerId, keyId } = caller;
        const claim = { ownerId, key, method: 'POST', path: '/v1/vms', fingerprint: fingerprint(JSON.stringify(req.body)) };
        const { answer, replayed } = await runOnce(ledger, claim, async (tx) => {
          await refuseTooManyVms(tx, ownerId, config.api.BERTH_MAX_VMS_PER_OWNER);
          const id = await acceptVm(tx, { owner: ownerId, order: body, nowMs: clock() });
          return json(202, show(await find(caller, id, tx)), `/v1/vms/${id}`);
        });
        const id = answer.location?.split('/').at(-1) as VmId;
        log.info({ vmId: id, owner: ownerId, keyId, replayed }, 'VM accepted');
        await bestEffort(log, { vmId: id }, () => temporal.startVm(id));
        return answer;
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/vms/{id}',
      id: 'deleteVm',
      tag: 'vms',
      summary: 'Delete a VM',
      description: 'From every state, also while it is being made or an operation is under way, which is finished first.',
      access: 'client',
      params: Id,
      answers: {
        200: { description: 'It was removed already', schema: Vm },
        202: { description: 'It will be removed', schema: Vm },
      },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params }) => {
        const row = await find(caller, params.id);
        if (row.order === null)
          throw new BerthError('conflict', `VM ${row.id} belongs to the task ${row.taskId}: cancel that, and it is removed`);
        if (row.state === 'removed') return json(200, show(row));
        const id = row.id as VmId;
        await ledger.vm.updateMany({ where: { id, removalRequestedAt: null }, data: { removalRequestedAt: new Date(clock()) } });
        log.info({ vmId: id, owner: row.ownerId, keyId: caller.keyId }, 'removal requested');
        await bestEffort(log, { vmId: id }, () => temporal.notifyVm(id));
        return json(202, show(await find(caller, id)));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/vms/{id}/console',
      id: 'readConsole',
      tag: 'vms',
      summary: "Read a VM's console",
      description: `What its guest wrote to its serial port on the host where it is now, of which the last 2 to 4 MiB are kept. One answer has at most ${consolePageBytes} bytes; a \`Range\` of one interval reads more, from anywhere.`,
      access: 'client',
      params: Id,
      query: ConsoleQuery,
      answers: {
        200: { description: 'Its end', media: 'text/plain' },
        206: { description: 'The range', media: 'text/plain', headers: { 'Content-Range': 'Which bytes, and of how many' } },
      },
      problems: ['not-found', 'conflict', 'range-not-satisfiable', 'host-unavailable', 'host-busy', 'unavailable'],
      handle: async ({ req, res, caller, params, query }) => {
        const { id } = await find(caller, params.id);
        sendConsole(req, res, await temporal.readConsole(id as VmId, consoleRange(req, query.tail)));
        return streamed;
      },
    }),
    ...vmOperationNames.map(operate),
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
        const { where, ...rest } = pageQuery('vms', query);
        const rows = await ledger.vm.findMany({ where: { AND: [visible(caller), where] }, ...rest, include: withLease });
        return json(200, page('vms', query.limit, rows, show));
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
      handle: async ({ caller, params: { id } }) => json(200, show(await find(caller, id))),
    }),
  ];
}
