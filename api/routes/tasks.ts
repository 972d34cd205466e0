import { z } from 'zod';
import { changeTaskForceEnded } from '../../ledger/levers/force-end.ts';
import { findTask, readTaskState, readTasks, type TaskRecord } from '../../ledger/tasks/read-tasks.ts';
import { acceptTaskOnce, changeTaskCancelRequested } from '../../ledger/tasks/request-task.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId } from '../../model/ids.ts';
import { TaskOrder } from '../../model/input/task-order.ts';
import { publicPortsOf } from '../../model/network/published-port.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import { isTerminal, taskStates } from '../../model/states.ts';
import { StoredTaskSpec, taskLimits } from '../../model/task.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { json, streamed } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { bestEffort } from '../http/best-effort.ts';
import { refuseBeyondHorizon } from '../http/horizon.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { refuseHighPriority } from '../http/priority.ts';
import { afterLever, forceEndOf } from '../levers.ts';
import { Id } from '../schemas/common.ts';
import { ForceEndOrder } from '../schemas/levers.ts';
import { Task } from '../schemas/tasks.ts';

const LogQuery = z.strictObject({
  node: z.coerce
    .number()
    .int()
    .min(0)
    .max(taskLimits.nodes - 1)
    .default(0)
    .meta({ description: 'The index of the node whose log is read' }),
  follow: z.enum(['0', '1']).default('0').meta({ description: '1: continue until the task is over' }),
});

/** JSON columns of the ledger, parsed by the schemas of what is shown. */
const storedJson = {
  spec: StoredTaskSpec,
  refusal: Task.shape.waiting,
  error: Task.shape.error,
  outputs: Task.shape.outputs,
  skippedOutputs: Task.shape.skippedOutputs,
  timeline: Task.shape.timeline,
};

function show(row: TaskRecord): z.input<typeof Task> {
  const hosts = row.vms.map(({ hostId }) => hostId).filter((host) => host !== null);
  const { outputs: outputPatterns, ...spec } = storedJson.spec.parse(row.spec);
  const { startAt, endAt } = row.lease;
  return {
    ...spec,
    outputPatterns,
    promise: startAt === null || endAt === null ? null : { startAt: startAt.toISOString(), endAt: endAt.toISOString() },
    id: row.id,
    owner: row.ownerId,
    state: row.state,
    workflowId: workflowId.task(row.id as TaskId),
    vms: row.vms.map(({ id }) => id),
    hosts: hosts.length === row.vms.length ? hosts : [],
    waiting: row.state === 'queued' ? storedJson.refusal.parse(row.refusal) : null,
    exitCode: row.exitCode,
    error: storedJson.error.parse(row.error),
    outputs: storedJson.outputs.parse(row.outputs),
    skippedOutputs: storedJson.skippedOutputs.parse(row.skippedOutputs),
    skippedOutputsCount: row.skippedOutputsCount,
    timeline: storedJson.timeline.parse(row.timeline),
    cancelRequestedAt: row.cancelRequestedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

export function taskRoutes(deps: ApiDeps): Operation[] {
  const { ledger, temporal, sendLog, config, log, clock } = deps;
  const [quotas, maxQueued] = [siteQuotas(config.api), config.api.BERTH_MAX_QUEUED];

  return [
    operation({
      method: 'post',
      path: '/v1/tasks',
      id: 'createTask',
      tag: 'tasks',
      summary: 'Run a command in one or more VMs',
      description:
        'The task is durable when the request is answered. Follow it by its Location, its log, or the events. A lease with a fixed start is answered with its promise, or refused with 409 `lease-refused`: the problem then has `reason` and `alternatives`, up to three intervals that are available.',
      access: 'client',
      body: TaskOrder,
      // A thousand inputs with the longest paths and URLs.
      maxBodyBytes: 4 * 2 ** 20,
      answers: { 202: { description: 'Accepted', schema: Task, headers: { Location: 'The task' } } },
      problems: [
        'forbidden',
        'image-unknown',
        'file-unknown',
        'digest-mismatch',
        'does-not-fit',
        'lease-refused',
        'quota-exceeded',
        'queue-full',
        'insufficient-funds',
        'amount-out-of-bounds',
        'quote-refused',
        'offer-refused',
      ],
      handle: async ({ caller, body, idempotencyKey }) => {
        const { ownerId: owner, keyId } = caller;
        refuseHighPriority(caller, body.lease.priority);
        refuseBeyondHorizon(clock(), { '/lease/startAt': body.lease.startAt, '/lease/deadline': body.lease.deadline });
        const request = idempotentPost(caller, idempotencyKey, '/v1/tasks', body);
        const task = { owner, spec: body, keyId, quotas, maxQueued, publicPorts: publicPortsOf(config.api), nowMs: clock() };
        const { answer, id, replayed } = await acceptTaskOnce(ledger, request, task, (row) =>
          json(202, show(row), `/v1/tasks/${row.id}`),
        );
        log.info({ taskId: id, owner, keyId, replayed }, 'task accepted');
        // Also on a repeated request: the first one may have crashed before this.
        await bestEffort(log, { taskId: id }, () => temporal.startTask(id as TaskId));
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/tasks',
      id: 'listTasks',
      tag: 'tasks',
      summary: 'List tasks, newest first',
      access: 'client',
      query: PageQuery.extend({ state: z.enum(taskStates).optional().meta({ description: 'Only tasks in this state' }) }),
      answers: { 200: { description: 'A page', schema: pageOf(Task) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const filter = { owner: visibleOwner(caller), state: query.state };
        return json(200, await readPage('tasks', query, (page) => readTasks(ledger, filter, page), show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/tasks/{id}',
      id: 'getTask',
      tag: 'tasks',
      summary: 'Describe a task',
      access: 'client',
      params: Id,
      answers: { 200: { description: 'The task', schema: Task } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => json(200, show(await findTask(ledger, visibleOwner(caller), id))),
    }),
    operation({
      method: 'delete',
      path: '/v1/tasks/{id}',
      id: 'cancelTask',
      tag: 'tasks',
      summary: 'Cancel a task',
      description: 'Its VMs are removed and it ends as `cancelled`. A task that is over does not change.',
      access: 'client',
      params: Id,
      answers: {
        200: { description: 'The task was over already', schema: Task },
        202: { description: 'It will be cancelled, unless it ends before', schema: Task },
      },
      problems: ['not-found'],
      handle: async ({ caller, params }) => {
        const before = await findTask(ledger, visibleOwner(caller), params.id);
        if (isTerminal(before.state)) return json(200, show(before));
        const id = before.id as TaskId;
        await changeTaskCancelRequested(ledger, id, clock());
        log.info({ taskId: id, owner: before.ownerId, keyId: caller.keyId }, 'cancel requested');
        await bestEffort(log, { taskId: id }, () => temporal.cancelTask(id));
        return json(202, show(await findTask(ledger, before.ownerId, id)));
      },
    }),
    operation({
      method: 'post',
      path: '/v1/tasks/{id}/force-end',
      id: 'forceEndTask',
      tag: 'tasks',
      summary: 'End a task that nothing else ends',
      description:
        'It ends as `failed` with the code `force-ended`, its completion event and its usage until now, in one transaction; stored outputs are kept. What its VMs take of their hosts, and their addresses, stay fenced until each host has confirmed that nothing of them is left. A task that is over does not change.',
      access: 'operator',
      params: Id,
      body: ForceEndOrder,
      answers: { 200: { description: 'The task, which is over', schema: Task } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id }, body }) => {
        const { record, fenced } = await changeTaskForceEnded(ledger, id, forceEndOf(caller, body, clock()));
        await afterLever(deps, { taskId: id }, caller, fenced);
        return json(200, show(record));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/tasks/{id}/log',
      id: 'getTaskLog',
      tag: 'tasks',
      summary: 'Read what the command printed',
      description:
        'Standard output and standard error together, as far as they have arrived; with `follow=1` until the task is over. Of a long output the begin and the end are kept, with a line between them that says how many bytes are left out.',
      access: 'client',
      params: Id,
      query: LogQuery,
      answers: { 200: { description: 'The log', media: 'text/plain' } },
      problems: ['not-found', 'rate-limited', 'unavailable'],
      handle: async ({ res, caller, params: { id }, query: { node, follow } }) => {
        const { vms } = await findTask(ledger, visibleOwner(caller), id);
        if (node >= vms.length)
          throw new BerthError('not-found', `The task ${id} has ${vms.length} nodes; there is no node ${node}`);
        const request = { reader: caller.ownerId, taskId: id, node, follow: follow === '1' };
        await sendLog(request, async () => isTerminal(await readTaskState(ledger, id)), res);
        return streamed;
      },
    }),
  ];
}
