import { z } from 'zod';
import type { Drain as DrainRow, Migration as MigrationRow } from '../../generated/prisma/client.ts';
import { acceptDrain, refuseUnlessInTime } from '../../ledger/drains/accept-drain.ts';
import { readDrainInput } from '../../ledger/drains/planner-input.ts';
import { type InPlaceSuspension, readSuspendedInPlace } from '../../ledger/drains/suspended-in-place.ts';
import { type DrainId, type DrainState, drainStates, isDrainOver } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { planDrain } from '../../scheduler/drains/drain-plan.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { fingerprint, runOnce, type Transaction, transactionLimits } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../http/page.ts';
import { Drain, DrainCancel, DrainChange, DrainOrder } from '../schemas.ts';

const Id = z.strictObject({ id: z.string() });
/** With which a host is to be empty by its deadline, where nothing else is asked for. */
const defaultConfidence = 0.99;

type DrainMoves = Pick<MigrationRow, 'id' | 'vmId' | 'fromId' | 'toId' | 'state'>[];

/** What the ledger holds as JSON is what this project wrote there. */
const storedJson = { plan: Drain.shape.plan, remaining: Drain.shape.remaining };

function show(row: DrainRow, moves: DrainMoves, inPlace: readonly InPlaceSuspension[]): z.input<typeof Drain> {
  const plan = storedJson.plan.parse(row.plan);
  const away = moves.filter(({ fromId }) => fromId === row.hostId);
  const over = isDrainOver(row.state) || row.state === 'held';
  return {
    id: row.id,
    host: row.hostId,
    state: row.state,
    deadline: row.deadline.toISOString(),
    strategy: row.strategy as z.input<typeof DrainOrder>['strategy'] & string,
    mode: row.mode as z.input<typeof Drain>['mode'],
    moveDisks: row.moveDisks,
    suspendInPlace: row.suspendInPlace as z.input<typeof Drain>['suspendInPlace'],
    confidence: row.confidence,
    returnAfter: row.returnAfter?.toISOString() ?? null,
    reason: row.reason,
    workflowId: workflowId.drain(row.hostId as HostId, row.number),
    plan: over ? null : plan,
    etaAt: over ? (row.emptiedAt?.toISOString() ?? null) : (plan?.expectedAt ?? null),
    progress: {
      moved: away.filter(({ state }) => state === 'succeeded').length,
      moving: moves.filter(({ state }) => state === 'running' || state === 'stuck').length,
      left: over || plan === null ? 0 : [plan.moves, plan.suspensions, plan.leaving, plan.blockers].flat().length,
    },
    blockers: over ? [] : (plan?.blockers ?? []),
    remaining: storedJson.remaining.parse(row.remaining ?? []),
    suspended: inPlace.map(({ vm, wasSuspended }) => ({ vm, wasSuspended })),
    moves: moves.map(({ id, vmId, fromId, toId, state }) => ({ migration: id, vm: vmId, from: fromId, to: toId, state })),
    predictedS: row.predictedS,
    boundS: row.boundS,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    emptiedAt: row.emptiedAt?.toISOString() ?? null,
    cancelRequestedAt: row.cancelRequestedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

export function drainRoutes({ ledger, temporal, log, clock }: ApiDeps): Operation[] {
  const movesOf = (tx: Transaction, drains: string[]) =>
    tx.migration.findMany({
      where: { requestedBy: { in: drains } },
      select: { id: true, vmId: true, fromId: true, toId: true, state: true, requestedBy: true },
      orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    });

  async function readShown(tx: Transaction, id: string): Promise<z.input<typeof Drain>> {
    const row = await tx.drain.findUnique({ where: { id } });
    if (row === null) throw new BerthError('not-found', `There is no drain ${id}`);
    return show(row, await movesOf(tx, [id]), await readSuspendedInPlace(tx, [id]));
  }

  /** It is accepted whatever becomes of this: the housekeeping workflow starts what wasn't, and a saga looks by itself. */
  async function notify(id: string, act: 'startDrain' | 'notifyDrain'): Promise<void> {
    const { hostId, number } = await ledger.drain.findUniqueOrThrow({ where: { id }, select: { hostId: true, number: true } });
    try {
      await temporal[act]({ id: id as DrainId, host: hostId as HostId, number });
    } catch (error) {
      log.warn({ err: error, drainId: id }, 'the drain could not be told now; it will see for itself');
    }
  }

  async function accept(tx: Transaction, caller: Caller, host: string, order: z.output<typeof DrainOrder>) {
    const nowMs = clock();
    const deadlineMs = Date.parse(order.deadline);
    const id = await acceptDrain(tx, {
      host,
      deadlineMs,
      strategy: order.strategy,
      mode: order.mode,
      moveDisks: order.moveDisks,
      suspendInPlace: order.suspendInPlace,
      confidence: order.confidence ?? defaultConfidence,
      returnAfterMs: order.returnAfter === undefined ? null : Date.parse(order.returnAfter),
      returnVms: order.returnAfter !== undefined,
      owner: caller.ownerId,
      reason: order.reason ?? null,
      nowMs,
    });
    return json(202, await readShown(tx, id), `/v1/drains/${id}`);
  }

  /** Locked, so that what is decided of its state is still so when it is written. */
  async function change(id: string, caller: Caller, act: (tx: Transaction, row: DrainRow) => Promise<void>): Promise<unknown> {
    const body = await ledger.$transaction(async (tx) => {
      await tx.$queryRaw`SELECT id FROM "Drain" WHERE id = ${id} FOR UPDATE`;
      const row = await tx.drain.findUnique({ where: { id } });
      if (row === null) throw new BerthError('not-found', `There is no drain ${id}`);
      await act(tx, row);
      return readShown(tx, id);
    }, transactionLimits);
    log.info({ drainId: id, keyId: caller.keyId, state: body.state }, 'drain changed by an operator');
    await notify(id, 'notifyDrain');
    return body;
  }

  function refuseUnless(row: DrainRow, states: readonly DrainState[], what: string): void {
    if (!states.includes(row.state))
      throw new BerthError('conflict', `Drain ${row.id} is ${row.state}: only one that is ${states.join(' or ')} can be ${what}`);
  }

  const answers = { 202: { description: 'The drain after the change', schema: Drain } };

  /** Asked for again, neither changes anything. */
  function stateChange(act: 'pause' | 'resume', summary: string): Operation {
    return operation({
      method: 'post',
      path: `/v1/drains/{id}/${act}`,
      id: `${act}Drain`,
      tag: 'drains',
      summary,
      access: 'operator',
      params: Id,
      answers,
      problems: ['not-found', 'conflict'],
      handle: async ({ params: { id }, caller }) => {
        const state = act === 'pause' ? 'paused' : 'waiting';
        const put = async (tx: Transaction, row: DrainRow): Promise<void> => {
          refuseUnless(row, ['waiting', 'moving', 'paused'], `${act}d`);
          if ((row.state === 'paused') !== (state === 'paused')) await tx.drain.update({ where: { id }, data: { state } });
        };
        return json(202, await change(id, caller, put));
      },
    });
  }

  return [
    operation({
      method: 'post',
      path: '/v1/hosts/{id}/drains',
      id: 'drainHost',
      tag: 'drains',
      summary: 'Empty a host by a moment',
      description:
        'The host is closed to new work at once; its VMs are moved as late as is safe, which is predicted from what earlier migrations took. Where it cannot be empty by then, that is said here, with the earliest time that can be promised and what stands in the way.',
      access: 'operator',
      params: Id,
      body: DrainOrder,
      answers: { 202: { description: 'Accepted', schema: Drain, headers: { Location: 'The drain' } } },
      problems: ['not-found', 'conflict', 'drain-impossible'],
      handle: async ({ req, caller, params, body, idempotencyKey: key }) => {
        const path = `/v1/hosts/${params.id}/drains`;
        const claim = { ownerId: caller.ownerId, key, method: 'POST', path, fingerprint: fingerprint(JSON.stringify(req.body)) };
        const { answer, replayed } = await runOnce(ledger, claim, (tx) => accept(tx, caller, params.id, body));
        const id = answer.location?.split('/').at(-1) ?? '';
        log.info({ drainId: id, hostId: params.id, keyId: caller.keyId, replayed }, 'drain accepted');
        // Also on a repeated request: the first one may have died before it came to this.
        await notify(id, 'startDrain');
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/drains',
      id: 'listDrains',
      tag: 'drains',
      summary: 'List drains, newest first',
      access: 'operator',
      query: PageQuery.extend({
        state: z.enum(drainStates).optional().meta({ description: 'Drains in this state alone' }),
        host: z.string().max(63).optional().meta({ description: 'Drains of this host alone' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Drain) } },
      problems: [],
      handle: async ({ query }) => {
        const { where, ...rest } = pageQuery('drains', query);
        const state = query.state === undefined ? {} : { state: query.state };
        const host = query.host === undefined ? {} : { hostId: query.host };
        const rows = await ledger.drain.findMany({ where: { AND: [state, host, where] }, ...rest });
        const ids = rows.map(({ id }) => id);
        const [moves, inPlace] = [await movesOf(ledger, ids), await readSuspendedInPlace(ledger, ids)];
        const shownRow = (row: DrainRow) =>
          show(
            row,
            moves.filter(({ requestedBy }) => requestedBy === row.id),
            inPlace.filter(({ drain }) => drain === row.id),
          );
        return json(200, page('drains', query.limit, rows, shownRow));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/drains/{id}',
      id: 'getDrain',
      tag: 'drains',
      summary: 'Describe a drain: its plan, how it goes, and what is in the way',
      access: 'operator',
      params: Id,
      answers: { 200: { description: 'The drain', schema: Drain } },
      problems: ['not-found'],
      handle: async ({ params: { id } }) => json(200, await readShown(ledger, id)),
    }),
    operation({
      method: 'patch',
      path: '/v1/drains/{id}',
      id: 'changeDrain',
      tag: 'drains',
      summary: 'Change the deadline of a drain that is under way',
      access: 'operator',
      params: Id,
      body: DrainChange,
      answers,
      problems: ['not-found', 'conflict', 'drain-impossible'],
      handle: async ({ params: { id }, body, caller }) => {
        const deadlineMs = Date.parse(body.deadline);
        const act = async (tx: Transaction, row: DrainRow): Promise<void> => {
          refuseUnless(row, ['waiting', 'moving', 'paused'], 'given another deadline');
          const { hostId: host, confidence, moveDisks } = row;
          const strategy = row.strategy as z.output<typeof DrainOrder>['strategy'];
          const mode = row.mode as z.output<typeof DrainOrder>['mode'];
          const suspendInPlace = row.suspendInPlace as z.output<typeof DrainOrder>['suspendInPlace'];
          const order = { host, drain: id, deadlineMs, strategy, mode, moveDisks, suspendInPlace, confidence, nowMs: clock() };
          refuseUnlessInTime(order, planDrain(await readDrainInput(tx, order)));
          const returnAfter =
            row.returnAfter !== null && row.returnAfter.getTime() < deadlineMs ? body.deadline : row.returnAfter;
          await tx.drain.update({ where: { id }, data: { deadline: body.deadline, returnAfter } });
        };
        return json(202, await change(id, caller, act));
      },
    }),
    stateChange('pause', 'Begin no more migrations; those under way go on, and the host stays closed'),
    stateChange('resume', 'Go on with a drain that was paused'),
    operation({
      method: 'post',
      path: '/v1/drains/{id}/cancel',
      id: 'cancelDrain',
      tag: 'drains',
      summary: 'Call a drain off',
      description:
        'Migrations under way are ended, what was suspended in place is restored, the host takes work again, and with `goBack` the VMs that have left are brought back.',
      access: 'operator',
      params: Id,
      body: DrainCancel,
      answers,
      problems: ['not-found', 'conflict'],
      handle: async ({ params: { id }, body, caller }) =>
        json(
          202,
          await change(id, caller, async (tx, row) => {
            refuseUnless(row, ['waiting', 'moving', 'paused', 'held', 'returning'], 'called off');
            const at = row.cancelRequestedAt ?? new Date(clock());
            await tx.drain.update({ where: { id }, data: { cancelRequestedAt: at, goBack: body.goBack } });
          }),
        ),
    }),
  ];
}
