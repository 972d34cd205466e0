import { z } from 'zod';
import { Prisma } from '../../generated/prisma/client.ts';
import { acceptTask } from '../../ledger/tasks/accept-task.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId } from '../../model/ids.ts';
import { isTerminal, type TaskState, taskStates } from '../../model/states.ts';
import { TaskSpec, taskLimits } from '../../model/task.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { openFollowers, sendLog } from '../files/follow-log.ts';
import { json, streamed } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { bestEffort } from '../http/best-effort.ts';
import { fingerprint, runOnce, type Transaction } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../http/page.ts';
import { Task } from '../schemas.ts';

const Id = z.strictObject({ id: z.string() });

const LogQuery = z.strictObject({
  node: z.coerce
    .number()
    .int()
    .min(0)
    .max(taskLimits.nodes - 1)
    .default(0)
    .meta({ description: 'Whose log, by the index of the node' }),
  follow: z.enum(['0', '1']).default('0').meta({ description: '1: go on until the task is over' }),
});

const withVms = {
  vms: { select: { id: true, hostId: true }, orderBy: { node: 'asc' } },
  lease: { select: { startAt: true, endAt: true } },
} as const;
type TaskRow = Prisma.TaskGetPayload<{ include: typeof withVms }>;

/** What the ledger holds as JSON is what this project wrote there; the schema says so aloud. */
const storedJson = {
  spec: TaskSpec,
  refusal: Task.shape.waiting,
  error: Task.shape.error,
  outputs: Task.shape.outputs,
  timeline: Task.shape.timeline,
};

function show(row: TaskRow): z.input<typeof Task> {
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
    timeline: storedJson.timeline.parse(row.timeline),
    cancelRequestedAt: row.cancelRequestedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

/**
 * Bounds the queue. The owner's bound is exact: its accepts follow each other (an advisory lock, not its row's, which
 * uploads hold). The site's may be passed by as many as are accepted at the same moment.
 */
async function refuseWhenQueueFull(tx: Transaction, ownerId: string, limits: { site: number; owner: number }): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('berth queue ' || ${ownerId}, 0))`;
  const owner = await tx.owner.findUniqueOrThrow({ where: { id: ownerId }, select: { maxQueued: true } });
  const most = owner.maxQueued ?? limits.owner;
  const mine = await tx.task.count({ where: { ownerId, state: 'queued' } });
  if (mine >= most)
    throw new BerthError('quota-exceeded', `This owner has ${mine} tasks in the queue, of at most ${most}; wait for some`);
  const all = await tx.task.count({ where: { state: 'queued' } });
  if (all >= limits.site)
    throw new BerthError('queue-full', `The queue has ${all} tasks, of at most ${limits.site}; try again later`);
}

/** Inputs can't be deleted between their check and the task's row: a deletion waits for this lock, and then sees the task. */
async function lockInputs(tx: Transaction, spec: TaskSpec): Promise<void> {
  const files = spec.inputs.flatMap(({ file }) => (file === undefined ? [] : [file]));
  if (files.length === 0) return;
  await tx.$queryRaw`SELECT "id" FROM "File" WHERE "id" IN (${Prisma.join(files)}) ORDER BY "id" FOR SHARE`;
}

export function taskRoutes({ ledger, temporal, repository, config, log, clock }: ApiDeps): Operation[] {
  const limits = { site: config.api.BERTH_MAX_QUEUED, owner: config.api.BERTH_MAX_QUEUED_PER_OWNER };
  const followers = openFollowers();
  const visible = (caller: Caller) => (caller.role === 'operator' ? {} : { ownerId: caller.ownerId });

  async function find(caller: Caller, id: string): Promise<TaskRow> {
    const row = await ledger.task.findFirst({ where: { id, ...visible(caller) }, include: withVms });
    if (!row) throw new BerthError('not-found', `There is no task ${id}`);
    return row;
  }

  async function accept(tx: Transaction, ownerId: string, spec: TaskSpec) {
    await refuseWhenQueueFull(tx, ownerId, limits);
    await lockInputs(tx, spec);
    const id = await acceptTask(tx, { owner: ownerId, spec, nowMs: clock() });
    const row = await tx.task.findUniqueOrThrow({ where: { id }, include: withVms });
    return json(202, show(row), `/v1/tasks/${id}`);
  }

  /** The task is accepted whatever becomes of this: the housekeeping workflow starts what wasn't. */
  async function start(id: TaskId): Promise<void> {
    try {
      await temporal.startTask(id);
    } catch (error) {
      log.warn({ err: error, taskId: id }, 'the workflow could not be started now; housekeeping will');
    }
  }

  async function stateOf(id: string): Promise<TaskState> {
    const { state } = await ledger.task.findUniqueOrThrow({ where: { id }, select: { state: true } });
    return state;
  }

  return [
    operation({
      method: 'post',
      path: '/v1/tasks',
      id: 'createTask',
      tag: 'tasks',
      summary: 'Run a command in one or more VMs',
      description:
        'The task is durable when it is answered. Follow it by its Location, its log, or the events. A lease with a fixed start is answered with its promise, or refused with 409 `lease-refused`: the problem then has `reason` and `alternatives`, up to three intervals that could be had.',
      access: 'client',
      body: TaskSpec,
      answers: { 202: { description: 'Accepted', schema: Task, headers: { Location: 'The task' } } },
      problems: [
        'image-unknown',
        'file-unknown',
        'digest-mismatch',
        'does-not-fit',
        'lease-refused',
        'quota-exceeded',
        'queue-full',
      ],
      handle: async ({ req, caller: { ownerId, keyId }, body, idempotencyKey: key }) => {
        const claim = { ownerId, key, method: 'POST', path: '/v1/tasks', fingerprint: fingerprint(JSON.stringify(req.body)) };
        const { answer, replayed } = await runOnce(ledger, claim, (tx) => accept(tx, ownerId, body));
        const id = answer.location?.split('/').at(-1) as TaskId;
        log.info({ taskId: id, owner: ownerId, keyId, replayed }, 'task accepted');
        // Also on a repeated request: the first one may have died before it came to this.
        await start(id);
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
      query: PageQuery.extend({ state: z.enum(taskStates).optional().meta({ description: 'Tasks in this state alone' }) }),
      answers: { 200: { description: 'A page', schema: pageOf(Task) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const { where, ...rest } = pageQuery('tasks', query);
        const state = query.state === undefined ? {} : { state: query.state };
        const rows = await ledger.task.findMany({ where: { AND: [visible(caller), state, where] }, ...rest, include: withVms });
        return json(200, page('tasks', query.limit, rows, show));
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
      handle: async ({ caller, params: { id } }) => json(200, show(await find(caller, id))),
    }),
    operation({
      method: 'delete',
      path: '/v1/tasks/{id}',
      id: 'cancelTask',
      tag: 'tasks',
      summary: 'Cancel a task',
      description: 'Its VMs are removed and it ends as `cancelled`. A task that is over stays as it is.',
      access: 'client',
      params: Id,
      answers: {
        200: { description: 'The task was over already', schema: Task },
        202: { description: 'It will be cancelled, unless it ends before', schema: Task },
      },
      problems: ['not-found'],
      handle: async ({ caller, params }) => {
        const before = await find(caller, params.id);
        if (isTerminal(before.state)) return json(200, show(before));
        const id = before.id as TaskId;
        await ledger.task.updateMany({ where: { id, cancelRequestedAt: null }, data: { cancelRequestedAt: new Date(clock()) } });
        log.info({ taskId: id, owner: before.ownerId, keyId: caller.keyId }, 'cancel requested');
        await bestEffort(log, { taskId: id }, () => temporal.cancelTask(id));
        return json(202, show(await find(caller, id)));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/tasks/{id}/log',
      id: 'getTaskLog',
      tag: 'tasks',
      summary: 'Read what the command printed',
      description: 'Both standard output and standard error, as far as it has arrived; with `follow=1` until the task is over.',
      access: 'client',
      params: Id,
      query: LogQuery,
      answers: { 200: { description: 'The log', media: 'text/plain' } },
      problems: ['not-found', 'unavailable'],
      handle: async ({ res, caller, params: { id }, query: { node, follow } }) => {
        const { vms } = await find(caller, id);
        if (node >= vms.length)
          throw new BerthError('not-found', `The task ${id} has ${vms.length} nodes; there is no node ${node}`);
        const leave = followers.acquire();
        if (!leave) throw new BerthError('unavailable', 'Too many logs are being read; try again soon');
        try {
          const order = { taskId: id, node, follow: follow === '1' };
          await sendLog(repository.logs, order, async () => isTerminal(await stateOf(id)), res);
        } finally {
          leave();
        }
        return streamed;
      },
    }),
  ];
}
