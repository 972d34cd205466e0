import { z } from 'zod';
import type { Vm as VmRow } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { coldReasons } from '../../model/vm.ts';
import type { ApiDeps } from '../app.ts';
import type { Caller } from '../auth.ts';
import { json, type Operation, operation } from '../operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../page.ts';
import { Vm } from '../schemas.ts';

const Boot = z.strictObject({ kind: z.enum(['warm', 'cold']), why: z.enum(coldReasons).nullable() });
const Problem = z.record(z.string(), z.unknown()).nullable();

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
    problem: Problem.parse(row.problem),
    startedAt: row.startedAt?.toISOString() ?? null,
    endedAt: row.endedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
  };
}

export function vmRoutes({ ledger }: ApiDeps): Operation[] {
  const visible = (caller: Caller) => (caller.role === 'operator' ? {} : { ownerId: caller.ownerId });
  return [
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
        const rows = await ledger.vm.findMany({ where: { AND: [visible(caller), where] }, ...rest });
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
      params: z.strictObject({ id: z.string() }),
      answers: { 200: { description: 'The VM', schema: Vm } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => {
        const row = await ledger.vm.findFirst({ where: { id, ...visible(caller) } });
        if (!row) throw new BerthError('not-found', `There is no VM ${id}`);
        return json(200, show(row));
      },
    }),
  ];
}
