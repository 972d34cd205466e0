import { z } from 'zod';
import type { Migration as MigrationRow } from '../../generated/prisma/client.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { type MigrationId, type MigrationState, migrationModes, migrationStates } from '../../model/migration.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { fingerprint, runOnce, type Transaction } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../http/page.ts';
import { Migration, MigrationOrder } from '../schemas.ts';

const Id = z.strictObject({ id: z.string() });

/** What the ledger holds as JSON is what this project wrote there; of the progress, what is of use to a caller. */
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

function show(row: MigrationRow): z.input<typeof Migration> {
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
const nameOf = (row: MigrationRow) => ({
  id: row.id as MigrationId,
  vmId: row.vmId as VmId,
  generation: row.generation,
});

export function migrationRoutes({ ledger, temporal, log, clock }: ApiDeps): Operation[] {
  const visible = (caller: Caller) => (caller.role === 'operator' ? {} : { ownerId: caller.ownerId });

  async function find(caller: Caller, id: string): Promise<MigrationRow> {
    const row = await ledger.migration.findFirst({ where: { id, ...visible(caller) } });
    if (!row) throw new BerthError('not-found', `There is no migration ${id}`);
    return row;
  }

  async function accept(tx: Transaction, caller: Caller, vm: string, order: z.output<typeof MigrationOrder>) {
    // Somebody else's VM is none.
    const mine = await tx.vm.count({ where: { id: vm, ...visible(caller) } });
    if (mine === 0) throw new BerthError('not-found', `There is no VM ${vm}`);
    const { to = null, reason = null, mode, moveDisk, convergeWithinS, ifNotConverging } = order;
    const orCold = ifNotConverging === 'cold';
    const asked = { vm, to, reason, mode, moveDisk, orCold, convergeWithinS, requestedBy: caller.ownerId, nowMs: clock() };
    const id = await acceptMigration(tx, asked);
    const row = await tx.migration.findUniqueOrThrow({ where: { id } });
    return json(202, show(row), `/v1/migrations/${id}`);
  }

  /** It is accepted whatever becomes of this: the housekeeping workflow starts what wasn't. */
  async function start(row: MigrationRow): Promise<void> {
    try {
      await temporal.startMigration(nameOf(row));
    } catch (error) {
      log.warn({ err: error, vmId: row.vmId }, 'the migration could not be started now; housekeeping will');
    }
  }

  return [
    operation({
      method: 'post',
      path: '/v1/vms/{id}/migrations',
      id: 'createMigration',
      tag: 'migrations',
      summary: 'Move a VM to another host while it runs',
      description:
        'It ends in one of two ways: the VM runs at the target, or where it was. The disk stays where it is, unless `moveDisk` lets it follow: no image is copied. With the mode `disks` the VM stays where it runs, and its disks follow it there from another host. Operators move any VM, clients their own.',
      access: 'client',
      params: Id,
      body: MigrationOrder,
      answers: { 202: { description: 'Accepted', schema: Migration, headers: { Location: 'The migration' } } },
      problems: ['not-found', 'conflict', 'migration-refused'],
      handle: async ({ req, caller, params, body, idempotencyKey: key }) => {
        const path = `/v1/vms/${params.id}/migrations`;
        const claim = { ownerId: caller.ownerId, key, method: 'POST', path, fingerprint: fingerprint(JSON.stringify(req.body)) };
        const { answer, replayed } = await runOnce(ledger, claim, (tx) => accept(tx, caller, params.id, body));
        const row = await find(caller, answer.location?.split('/').at(-1) ?? '');
        log.info({ vmId: row.vmId, migrationId: row.id, keyId: caller.keyId, replayed }, 'migration accepted');
        // Also on a repeated request: the first one may have died before it came to this.
        await start(row);
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
        state: z.enum(migrationStates).optional().meta({ description: 'Migrations in this state alone' }),
        vm: z.string().max(96).optional().meta({ description: 'Migrations of this VM alone' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Migration) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const { where, ...rest } = pageQuery('migrations', query);
        const state = query.state === undefined ? {} : { state: query.state };
        const vm = query.vm === undefined ? {} : { vmId: query.vm };
        const rows = await ledger.migration.findMany({ where: { AND: [visible(caller), state, vm, where] }, ...rest });
        return json(200, page('migrations', query.limit, rows, show));
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
      handle: async ({ caller, params: { id } }) => json(200, show(await find(caller, id))),
    }),
    operation({
      method: 'delete',
      path: '/v1/migrations/{id}',
      id: 'abortMigration',
      tag: 'migrations',
      summary: 'Abort a migration',
      description: 'Heard until the switch: then the VM stays where it was. Later it comes too late, and changes nothing.',
      access: 'client',
      params: Id,
      answers: {
        200: { description: 'The migration was over already', schema: Migration },
        202: { description: 'It will be rolled back, unless the VM is handed over before', schema: Migration },
      },
      problems: ['not-found', 'unavailable'],
      handle: async ({ caller, params }) => {
        const row = await find(caller, params.id);
        if (isOver(row.state)) return json(200, show(row));
        await ledger.migration.updateMany({
          where: { id: row.id, abortRequestedAt: null },
          data: { abortRequestedAt: new Date(clock()) },
        });
        try {
          await temporal.abortMigration(nameOf(row));
        } catch (error) {
          throw new BerthError('unavailable', `The migration ${row.id} could not be told to end; repeat this`, { cause: error });
        }
        return json(202, show(await find(caller, row.id)));
      },
    }),
  ];
}
