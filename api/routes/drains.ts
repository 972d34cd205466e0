import { z } from 'zod';
import type { DrainRequest } from '../../ledger/drains/accept-drain.ts';
import { type DrainRecord, findDrain, findDrainName, readDrains } from '../../ledger/drains/read-drains.ts';
import {
  acceptDrainOnce,
  changeDrainCancelRequested,
  changeDrainDeadline,
  changeDrainPaused,
} from '../../ledger/drains/request-drain.ts';
import { changeDrainForceEnded } from '../../ledger/levers/force-end.ts';
import { drainStates, isDrainOver } from '../../model/drain.ts';
import type { HostId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { type Answer, json } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { bestEffort } from '../http/best-effort.ts';
import { refuseBeyondHorizon } from '../http/horizon.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { afterLever, forceEndOf } from '../levers.ts';
import { Id } from '../schemas/common.ts';
import { Drain, DrainCancel, DrainChange, DrainOrder } from '../schemas/drains.ts';
import { ForceEndOrder } from '../schemas/levers.ts';

/** The probability that a host is empty by its deadline, where the request names none. */
const defaultConfidence = 0.99;

/** JSON and text columns of the ledger, parsed by the schemas of what is shown. */
const storedJson = {
  strategy: Drain.shape.strategy,
  mode: Drain.shape.mode,
  suspendInPlace: Drain.shape.suspendInPlace,
  remaining: Drain.shape.remaining,
};

function show(row: DrainRecord): z.input<typeof Drain> {
  const { migrations, plan } = row;
  const departures = migrations.filter(({ fromId }) => fromId === row.hostId);
  const over = isDrainOver(row.state) || row.state === 'held';
  return {
    id: row.id,
    host: row.hostId,
    state: row.state,
    deadline: row.deadline.toISOString(),
    strategy: storedJson.strategy.parse(row.strategy),
    mode: storedJson.mode.parse(row.mode),
    moveDisks: row.moveDisks,
    suspendInPlace: storedJson.suspendInPlace.parse(row.suspendInPlace),
    confidence: row.confidence,
    returnAfter: row.returnAfter?.toISOString() ?? null,
    reason: row.reason,
    workflowId: workflowId.drain(row.hostId as HostId, row.number),
    plan: over ? null : plan,
    etaAt: over ? (row.emptiedAt?.toISOString() ?? null) : (plan?.expectedAt ?? null),
    progress: {
      moved: departures.filter(({ state }) => state === 'succeeded').length,
      moving: migrations.filter(({ state }) => state === 'running' || state === 'stuck').length,
      left: over || plan === null ? 0 : [plan.moves, plan.suspensions, plan.leaving, plan.blockers].flat().length,
    },
    blockers: over ? [] : (plan?.blockers ?? []),
    remaining: storedJson.remaining.parse(row.remaining ?? []),
    suspended: row.suspendedInPlace.map(({ vm, wasSuspended }) => ({ vm, wasSuspended })),
    moves: migrations.map(({ id, vmId, fromId, toId, state }) => ({ migration: id, vm: vmId, from: fromId, to: toId, state })),
    predictedS: row.predictedS,
    boundS: row.boundS,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    emptiedAt: row.emptiedAt?.toISOString() ?? null,
    cancelRequestedAt: row.cancelRequestedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

export function drainRoutes(deps: ApiDeps): Operation[] {
  const { ledger, temporal, log, clock } = deps;
  async function notify(id: string, act: 'startDrain' | 'notifyDrain'): Promise<void> {
    const name = await findDrainName(ledger, id);
    await bestEffort(log, { drainId: id }, () => temporal[act](name));
  }

  /** Answers a drain after an operator's change, and notifies its workflow. */
  async function answerChanged(caller: Caller, drain: DrainRecord): Promise<Answer> {
    log.info({ drainId: drain.id, keyId: caller.keyId, state: drain.state }, 'drain changed by an operator');
    await notify(drain.id, 'notifyDrain');
    return json(202, show(drain));
  }

  const answers = { 202: { description: 'The drain after the change', schema: Drain } };

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
      handle: async ({ params: { id }, caller }) => answerChanged(caller, await changeDrainPaused(ledger, id, act === 'pause')),
    });
  }

  return [
    operation({
      method: 'post',
      path: '/v1/hosts/{id}/drains',
      id: 'drainHost',
      tag: 'drains',
      summary: 'Drain a host by a deadline',
      description:
        'The host is closed to new work at once; its VMs are migrated as late as is safe, which is predicted from the durations of earlier migrations. When it cannot be empty by the deadline, the request is refused with the earliest time that can be promised and the reasons.',
      access: 'operator',
      params: Id,
      body: DrainOrder,
      answers: { 202: { description: 'Accepted', schema: Drain, headers: { Location: 'The drain' } } },
      problems: ['not-found', 'conflict', 'drain-impossible'],
      handle: async ({ caller, params, body, idempotencyKey }) => {
        refuseBeyondHorizon(clock(), { '/deadline': body.deadline, '/returnAfter': body.returnAfter });
        const { deadline, returnAfter, confidence = defaultConfidence, reason = null, ...choices } = body;
        const drain: DrainRequest = {
          ...choices,
          host: params.id,
          deadlineMs: Date.parse(deadline),
          confidence,
          returnAfterMs: returnAfter === undefined ? null : Date.parse(returnAfter),
          returnVms: returnAfter !== undefined,
          owner: caller.ownerId,
          reason,
          nowMs: clock(),
        };
        const request = idempotentPost(caller, idempotencyKey, `/v1/hosts/${params.id}/drains`, body);
        const { answer, id, replayed } = await acceptDrainOnce(ledger, request, drain, (row) =>
          json(202, show(row), `/v1/drains/${row.id}`),
        );
        log.info({ drainId: id, hostId: params.id, keyId: caller.keyId, replayed }, 'drain accepted');
        // Also on a repeated request: the first one may have crashed before this.
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
        state: z.enum(drainStates).optional().meta({ description: 'Only drains in this state' }),
        host: z.string().max(63).optional().meta({ description: 'Only drains of this host' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Drain) } },
      problems: [],
      handle: async ({ query }) => json(200, await readPage('drains', query, (page) => readDrains(ledger, query, page), show)),
    }),
    operation({
      method: 'get',
      path: '/v1/drains/{id}',
      id: 'getDrain',
      tag: 'drains',
      summary: 'Describe a drain: its plan, its progress, and its blockers',
      access: 'operator',
      params: Id,
      answers: { 200: { description: 'The drain', schema: Drain } },
      problems: ['not-found'],
      handle: async ({ params: { id } }) => json(200, show(await findDrain(ledger, id))),
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
        refuseBeyondHorizon(clock(), { '/deadline': body.deadline });
        return answerChanged(caller, await changeDrainDeadline(ledger, id, Date.parse(body.deadline), clock()));
      },
    }),
    stateChange('pause', 'Pause a drain: it begins no more migrations, those under way continue, and the host remains closed'),
    stateChange('resume', 'Resume a drain that was paused'),
    operation({
      method: 'post',
      path: '/v1/drains/{id}/cancel',
      id: 'cancelDrain',
      tag: 'drains',
      summary: 'Cancel a drain',
      description:
        'Migrations under way are aborted, VMs that were suspended in place are restored, the host takes work again, and with `goBack` the VMs that have left return.',
      access: 'operator',
      params: Id,
      body: DrainCancel,
      answers,
      problems: ['not-found', 'conflict'],
      handle: async ({ params: { id }, body, caller }) =>
        answerChanged(caller, await changeDrainCancelRequested(ledger, id, { returnVms: body.goBack, nowMs: clock() })),
    }),
    operation({
      method: 'post',
      path: '/v1/drains/{id}/force-end',
      id: 'forceEndDrain',
      tag: 'drains',
      summary: 'End a drain that nothing else ends',
      description:
        'It is `incomplete`, or `cancelled` where the host was empty already. The host stays closed until an operator opens it; moves under way go on by themselves.',
      access: 'operator',
      params: Id,
      body: ForceEndOrder,
      answers: { 200: { description: 'The drain, which is over', schema: Drain } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id }, body }) => {
        const record = await changeDrainForceEnded(ledger, id, forceEndOf(caller, body, clock()));
        await afterLever(deps, { drainId: id, hostId: record.hostId }, caller, []);
        return json(200, show(record));
      },
    }),
  ];
}
