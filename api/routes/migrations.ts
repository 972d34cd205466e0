import { z } from 'zod';
import { changeMigrationForceEnded } from '../../ledger/levers/force-end.ts';
import type { MigrationRequest } from '../../ledger/migrations/accept-migration.ts';
import { findMigration, type MigrationRecord, readMigrations } from '../../ledger/migrations/read-migrations.ts';
import { acceptMigrationOnce, changeMigrationAbortRequested } from '../../ledger/migrations/request-migration.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { type MigrationId, type MigrationState, migrationModes, migrationStates } from '../../model/migration.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { bestEffort } from '../http/best-effort.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { afterLever, forceEndOf } from '../levers.ts';
import { Id } from '../schemas/common.ts';
import { MigrationForceEndOrder } from '../schemas/levers.ts';
import { Migration, MigrationOrder } from '../schemas/migrations.ts';
import type { MigrationName } from '../temporal.ts';

/** JSON columns of the ledger, parsed by the schemas of what is shown; of the progress, the members that are shown. */
const storedJson = {
  phases: Migration.shape.phases,
  guest: Migration.shape.guest,
  error: Migration.shape.error,
  progress: z
    .object({
      processedBytes: z.int(),
      remainingBytes: z.int(),
      dirtyBytesPerS: z.number(),
      bytesPerS: z.number(),
      etaS: z.number().nullable(),
    })
    .nullable(),
};

function show(row: MigrationRecord): z.input<typeof Migration> {
  return {
    id: row.id,
    vm: row.vmId,
    owner: row.ownerId,
    state: row.state,
    mode: z.enum(migrationModes).parse(row.mode),
    moveDisk: row.moveDisk,
    ifNotConverging: row.orCold ? 'cold' : 'rollBack',
    convergeWithinS: row.convergeWithinS,
    from: row.fromId,
    to: row.toId,
    generation: row.generation,
    workflowId: workflowId.migration(row.vmId as VmId, row.generation),
    waiting: row.waiting,
    phases: storedJson.phases.parse(row.phases),
    progress: isOver(row.state) ? null : storedJson.progress.parse(row.progress),
    downtimeMs: row.downtimeMs,
    bytes: Number(row.bytes),
    guest: storedJson.guest.parse(row.guest),
    error: storedJson.error.parse(row.error),
    requestedBy: row.requestedBy,
    reason: row.reason,
    abortRequestedAt: row.abortRequestedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

const isOver = (state: MigrationState): boolean => state === 'succeeded' || state === 'rolledBack';
const nameOf = (row: MigrationRecord): MigrationName => ({
  id: row.id as MigrationId,
  vmId: row.vmId as VmId,
  generation: row.generation,
});

export function migrationRoutes(deps: ApiDeps): Operation[] {
  const { ledger, temporal, log, clock } = deps;
  return [
    operation({
      method: 'post',
      path: '/v1/vms/{id}/migrations',
      id: 'createMigration',
      tag: 'migrations',
      summary: 'Migrate a VM to another host',
      description:
        'It ends in one of two ways: the VM runs at the target, or where it was. Its disks remain at their host, unless `moveDisk` lets them follow: no image is copied. With the mode `disks` the VM does not move, and its disks follow it from another host. Operators migrate any VM, clients their own.',
      access: 'client',
      params: Id,
      body: MigrationOrder,
      answers: { 202: { description: 'Accepted', schema: Migration, headers: { Location: 'The migration' } } },
      problems: ['not-found', 'conflict', 'migration-refused'],
      handle: async ({ caller, params, body, idempotencyKey }) => {
        const owner = visibleOwner(caller);
        const { to = null, reason = null, mode, moveDisk, convergeWithinS, ifNotConverging } = body;
        const migration: MigrationRequest & { owner: string | null } = {
          vm: params.id,
          owner,
          to,
          reason,
          mode,
          moveDisk,
          coldFallback: ifNotConverging === 'cold',
          convergeWithinS,
          requestedBy: caller.ownerId,
          nowMs: clock(),
        };
        const request = idempotentPost(caller, idempotencyKey, `/v1/vms/${params.id}/migrations`, body);
        const { answer, id, replayed } = await acceptMigrationOnce(ledger, request, migration, (row) =>
          json(202, show(row), `/v1/migrations/${row.id}`),
        );
        const row = await findMigration(ledger, owner, id);
        log.info({ vmId: row.vmId, migrationId: id, keyId: caller.keyId, replayed }, 'migration accepted');
        // Also on a repeated request: the first one may have crashed before this.
        await bestEffort(log, { vmId: row.vmId, migrationId: id }, () => temporal.startMigration(nameOf(row)));
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/migrations',
      id: 'listMigrations',
      tag: 'migrations',
      summary: 'List migrations, newest first',
      access: 'client',
      query: PageQuery.extend({
        state: z.enum(migrationStates).optional().meta({ description: 'Only migrations in this state' }),
        vm: z.string().max(96).optional().meta({ description: 'Only migrations of this VM' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Migration) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const filter = { owner: visibleOwner(caller), state: query.state, vm: query.vm };
        return json(200, await readPage('migrations', query, (page) => readMigrations(ledger, filter, page), show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/migrations/{id}',
      id: 'getMigration',
      tag: 'migrations',
      summary: 'Describe a migration',
      access: 'client',
      params: Id,
      answers: { 200: { description: 'The migration', schema: Migration } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => json(200, show(await findMigration(ledger, visibleOwner(caller), id))),
    }),
    operation({
      method: 'post',
      path: '/v1/migrations/{id}/force-end',
      id: 'forceEndMigration',
      tag: 'migrations',
      summary: 'End a migration whose outcome nobody can observe',
      description:
        'Of one that is stuck, or whose abort was requested without effect. The operator has found out where the VM is (`vmAt`): the ledger takes that as true, and the other host is fenced until it has confirmed that it has no domain of it.',
      access: 'operator',
      params: Id,
      body: MigrationForceEndOrder,
      answers: { 200: { description: 'The migration, which is over', schema: Migration } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { id }, body }) => {
        const order = forceEndOf(caller, body, clock());
        const { record, fenced } = await changeMigrationForceEnded(ledger, id, body.vmAt, order);
        await afterLever(deps, { migrationId: id, vmId: record.vmId, vmAt: body.vmAt }, caller, fenced);
        await bestEffort(log, { vmId: record.vmId }, () => temporal.notifyVm(record.vmId as VmId));
        return json(200, show(record));
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/migrations/{id}',
      id: 'abortMigration',
      tag: 'migrations',
      summary: 'Abort a migration',
      description: 'Until the switch, it keeps the VM where it was. After that it has no effect.',
      access: 'client',
      params: Id,
      answers: {
        200: { description: 'The migration was over already', schema: Migration },
        202: { description: 'It will be rolled back, unless the VM is handed over before', schema: Migration },
      },
      problems: ['not-found', 'unavailable'],
      handle: async ({ caller, params }) => {
        const row = await findMigration(ledger, visibleOwner(caller), params.id);
        if (isOver(row.state)) return json(200, show(row));
        await changeMigrationAbortRequested(ledger, row.id, clock());
        try {
          await temporal.abortMigration(nameOf(row));
        } catch (error) {
          throw new BerthError('unavailable', `The migration ${row.id} could not be notified of the abort; repeat this request`, {
            cause: error,
          });
        }
        return json(202, show(await findMigration(ledger, row.ownerId, row.id)));
      },
    }),
  ];
}
