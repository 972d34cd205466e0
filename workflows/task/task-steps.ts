import { condition } from '@temporalio/workflow';
import type { HostActivities, RunResult, StagedOut } from '../../contracts/host.ts';
import type { LedgerActivities, TaskRecord, TaskStepArgs, VmBoot } from '../../contracts/ledger.ts';
import type { TaskState } from '../../model/states.ts';
import type { TaskError, TaskOutput } from '../../model/task.ts';
import type { Boot, VmSpec } from '../../model/vm.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { allOrCancel } from '../durable/cancellation-scopes.ts';
import { codeOf, failure } from '../durable/failure.ts';
import { isoNow, type Progress } from '../durable/progress.ts';
import type { RetryForever } from '../durable/retry-forever.ts';
import { Saga } from '../durable/saga.ts';
import { withRunningTimeout } from '../durable/stopwatch.ts';
import { timing } from '../durable/timeouts.ts';
import { requestTemplate } from '../image/request-template.ts';
import { type LeaseRun, runUnderLease, startLease } from './lease-run.ts';
import { nodeHost, relocate, updateLocation, waitUntilSettled } from './node-location.ts';

/** A task at work: what it is, where it stands, and what it has to show for it so far. */
export interface TaskRun {
  readonly task: TaskRecord;
  readonly ledger: LedgerActivities;
  readonly progress: Progress;
  readonly retry: RetryForever;
  readonly pace: number;
  state: TaskState;
  exitCode: number | null;
  outputs: TaskOutput[];
  bytesIn: number;
  bytesOut: number;
  /** How often the task was told that one of its VMs has moved. */
  locationChanges: number;
  /** How its VMs came to life. */
  boots: VmBoot[];
  lease: LeaseRun;
}

/** One VM of the task, with its own stack of undos: a VM that can't be removed doesn't hold its siblings. */
export interface Node {
  readonly index: number;
  readonly label: string;
  /** As it is now: its host, home and generation change when it moves. */
  vm: VmSpec;
  /** Before the domain was ever asked for, a silent host is left; from then on it is waited for. */
  readonly stagingHost: HostActivities;
  host: HostActivities;
  readonly saga: Saga;
  startedAt: string | null;
  endedAt: string | null;
  /** The ledger has it as on its way out: no migration of it begins any more. */
  removing: boolean;
  stuck: boolean;
}

export function nodeOf(run: TaskRun, vm: VmSpec, index: number): Node {
  const label = run.task.vmIds.length === 1 ? vm.host : `${vm.host} (node${index})`;
  return {
    index,
    label,
    vm,
    stagingHost: onHost(vm.host, run.pace, 'throw'),
    host: nodeHost(run, vm.host, index, vm.id),
    saga: new Saga(),
    startedAt: null,
    endedAt: null,
    removing: false,
    stuck: false,
  };
}

/** A step on all nodes side by side; one that fails stops the others. */
async function onAll<T>(run: TaskRun, step: string, nodes: Node[], act: (node: Node) => Promise<T>): Promise<T[]> {
  const labels = nodes.map((node) => node.label);
  return run.progress.trackStep(step, labels, (done) =>
    allOrCancel(
      nodes.map((node) => async () => {
        const result = await act(node);
        run.progress.setDetail(`silent ${node.index}`, null);
        done(node.label);
        return result;
      }),
    ),
  );
}

/**
 * The task's next state, with what its step needs on each node. The orders come with the state, right before their use,
 * because the URLs in them are short-lived, and because a round trip to the ledger is as dear as its work.
 */
async function enterState(
  run: TaskRun,
  state: TaskState,
  vmState?: 'creating' | 'running' | 'removing',
): Promise<TaskStepArgs[]> {
  const orders = await run.ledger.advanceTask(run.task.id, state, run.progress.timeline, vmState, run.boots);
  run.state = state;
  run.progress.setAttributes({ state });
  return orders;
}

/** How a node's step comes by its orders: those that came with the state, and fresh ones each time after that. */
function stepArgsSource(run: TaskRun, node: Node, orders: TaskStepArgs[]): () => Promise<TaskStepArgs> {
  let given = orders[node.index];
  return async () => {
    const mine = given ?? (await run.ledger.issueTaskStepArgs(run.task.id, node.vm.id));
    given = undefined;
    return mine;
  };
}

/** The rights in an order run out while its step waits for a silent host: the repository says `forbidden`, and new ones are asked for. */
async function withFreshUrls<T>(ask: () => Promise<TaskStepArgs>, act: (orders: TaskStepArgs) => Promise<T>): Promise<T> {
  try {
    return await act(await ask());
  } catch (error) {
    if (codeOf(error) !== 'forbidden') throw error;
    return act(await ask());
  }
}

/**
 * Data disk, image, overlay and network, in one step of the host. Undone, as all that follows, by the removal of the VM:
 * one path from every state.
 */
export async function stageIn(run: TaskRun, nodes: Node[]): Promise<void> {
  const orders = await enterState(run, 'stagingIn');
  const staged = await onAll(run, 'stageIn', nodes, (node) =>
    node.saga.step(
      'stageIn',
      () =>
        withFreshUrls(stepArgsSource(run, node, orders), async ({ stageIn: order }) => {
          const { bytes, image } = await node.stagingHost.stageIn(order);
          // Images stay: the host's cache bounds itself.
          if (image !== 'cache') await run.ledger.recordImageCached(node.vm.host, node.vm.image.id);
          return bytes;
        }),
      () => removeVm(run, node),
    ),
  );
  run.bytesIn = sum(staged);
}

/** The domain, then its disks. A VM that moved has a folder where it runs, and its disks at home. */
export async function removeVm(run: TaskRun, node: Node): Promise<void> {
  const { id, host, home, generation } = node.vm;
  await node.host.removeVm(id, generation);
  if (node.startedAt !== null) node.endedAt ??= isoNow();
  if (home !== host) await nodeHost(run, home, node.index, id).removeDisks(id, generation);
}

/** Runs that began before VMs came from templates have steps whose results say nothing of it. */
function recordBoot(run: TaskRun, { vm }: Node, boot: Boot | undefined): void {
  if (boot === undefined) return;
  run.boots.push({ vm: vm.id, boot });
  requestTemplate(vm, boot, run.pace);
}

/** Such as `warm`, or `2 × warm, cold (template-failed)`. */
function bootSummary({ boots }: TaskRun): string | undefined {
  const counts = new Map<string, number>();
  for (const { boot } of boots) {
    const kind = boot.kind === 'warm' ? 'warm' : `cold (${boot.why})`;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  if (counts.size === 0) return undefined;
  return [...counts].map(([kind, count]) => (count === 1 ? kind : `${count} × ${kind}`)).join(', ');
}

/** From the domain to a guest that takes commands. Undone by the VM's removal, see stageIn. */
export async function boot(run: TaskRun, nodes: Node[]): Promise<void> {
  await enterState(run, 'starting', 'creating');
  const took = await onAll(run, 'boot', nodes, async (node) => {
    const { createMs, bootMs, boot } = await node.host.ensureRunning(node.vm);
    recordBoot(run, node, boot);
    node.startedAt = new Date(Date.now() - bootMs).toISOString();
    return createMs;
  });
  run.progress.splitStep('create', Math.max(...took), 'boot', bootSummary(run));
}

/** Thrown to stop the other nodes: this one's command has ended, and not well. */
class CommandEnded extends Error {}

const hasSucceeded = (result: RunResult): boolean => result.exitCode === 0 && !result.timedOut;

/**
 * The command on every node; it ends with its domain, so there is nothing to undo. The guest enforces timeoutS; the
 * saga's own timer is for the case that nobody can ask the guest.
 * @returns the result that decides: of the node that failed first, else of the first node.
 */
export async function runCommands(run: TaskRun, nodes: Node[]): Promise<RunResult> {
  const leaseMs = await startLease(run);
  const orders = await enterState(run, 'running', 'running');
  const { timeoutS } = run.task.spec;
  const { stopwatch: watch } = run.lease;
  const expired = () => failure('lease-expired', `The lease of ${run.task.spec.lease.durationS} s ended while the command ran`);
  const late = () => failure('task-timeout', `The command did not end within ${timeoutS} s, and its host does not say why`);
  const limitMs = timeoutS * 1000 + timing(run.pace).runGraceMs;
  const commands = () => runUnderLease(run, nodes, () => allCommands(run, nodes, orders));
  const results = await withRunningTimeout(watch, leaseMs, expired, () => withRunningTimeout(watch, limitMs, late, commands));
  watch.stop();
  const decides = results.find((result) => !hasSucceeded(result)) ?? results[0];
  if (decides === undefined) throw new Error('BUG: a task without nodes');
  run.exitCode = decides.exitCode;
  return decides;
}

async function allCommands(run: TaskRun, nodes: Node[], orders: TaskStepArgs[]): Promise<RunResult[]> {
  const results = new Map<Node, RunResult>();
  try {
    await onAll(run, 'run', nodes, async (node) => {
      const result = await followCommand(run, node, stepArgsSource(run, node, orders));
      results.set(node, result);
      if (!hasSucceeded(result)) throw new CommandEnded();
    });
  } catch (error) {
    if (!(error instanceof CommandEnded)) throw error;
    // Their outputs are wanted all the same, so the guests stay and the commands go.
    const others = nodes.filter((node) => !results.has(node));
    await allOrCancel(others.map((node) => () => stopCommand(run, node)));
  }
  return nodes.flatMap((node) => results.get(node) ?? []);
}

/** Those that came with the state may be from before a suspension. */
async function currentStepArgs(node: Node, ask: () => Promise<TaskStepArgs>): Promise<TaskStepArgs> {
  const orders = await ask();
  return orders.run.vm.generation < node.vm.generation ? ask() : orders;
}

/** The command of one node, wherever its VM is: it takes its command along when it moves. */
async function followCommand(run: TaskRun, node: Node, ask: () => Promise<TaskStepArgs>): Promise<RunResult> {
  for (;;) {
    // The plan may have asked for its suspension before it began.
    await condition(() => run.lease.state === 'running');
    const heard = run.locationChanges;
    let asked = 0;
    try {
      return await withFreshUrls(
        () => currentStepArgs(node, ask),
        (orders) => {
          relocate(run, node, orders.run.vm);
          asked = orders.run.vm.generation;
          return node.host.runCommand(orders.run);
        },
      );
    } catch (error) {
      const code = codeOf(error);
      if (code !== 'vm-moved' && code !== 'vm-suspended' && code !== 'stale-generation') throw error;
      // Suspended by the plan, which says when it goes on. Else it left for another host, running or suspended for the journey.
      if (run.lease.state !== 'running') continue;
    }
    const place = await waitUntilSettled(run, node, await run.ledger.loadVmLocation(node.vm.id), false);
    if (run.lease.state !== 'running') continue;
    if (place.state === 'suspended' || place.state === 'restoring') {
      // By its owner, who will say when it goes on.
      await condition(() => run.locationChanges > heard || run.lease.state !== 'running', timing(run.pace).admissionPoll.maxMs);
      continue;
    }
    if (place.state !== 'running' || place.generation === asked)
      throw failure(
        'vm-lost',
        `${node.vm.id} left ${node.vm.host} and is ${place.state}: its command is lost; submit the task again`,
      );
  }
}

async function stopCommand(run: TaskRun, node: Node): Promise<void> {
  updateLocation(run, node, await waitUntilSettled(run, node, await run.ledger.loadVmLocation(node.vm.id), true));
  await node.host.stopCommand(node.vm.id, node.vm.generation);
}

/**
 * The outputs of every node, also of a command that failed. Its VMs are on their way out from here on. What was stored
 * before a later failure is no output of the task: the API sweeps files of an ended task that it does not name.
 * @returns the patterns that matched nothing on any node.
 */
export async function stageOut(run: TaskRun, nodes: Node[]): Promise<string[]> {
  const orders = await enterState(run, 'stagingOut', 'removing');
  for (const node of nodes) node.removing = orders[node.index]?.migrationWorkflowId === null;
  if (run.task.spec.outputs.length === 0) return [];
  const taken = await onAll(run, 'stageOut', nodes, async (node) => {
    const ask = stepArgsSource(run, node, orders);
    const part = await withFreshUrls(
      () => settledStepArgs(run, node, ask),
      (order) => collectOutputs(run, node, order),
    );
    node.endedAt = part.endedAt;
    return part;
  });
  run.outputs = taken.flatMap((part) => part.outputs);
  run.bytesOut = sum(taken.map((part) => part.bytes));
  return run.task.spec.outputs.filter((pattern) => taken.every((part) => part.unmatched.includes(pattern)));
}

/** The guest's writes are brought to the disk where it runs; the disk is read where it is. */
async function collectOutputs(run: TaskRun, node: Node, { stageOut: order }: TaskStepArgs): Promise<StagedOut> {
  if (order.vm.home === order.vm.host) return node.host.stageOut(order);
  await node.host.flushGuestDisks(order.vm);
  return nodeHost(run, order.vm.home, node.index, order.vm.id).stageOut({ ...order, flushedElsewhere: true });
}

/** Orders for a VM that nobody moves: no migration begins any more, and one that was under way is ended. */
async function settledStepArgs(run: TaskRun, node: Node, ask: () => Promise<TaskStepArgs>): Promise<TaskStepArgs> {
  let orders = await ask();
  if (orders.migrationWorkflowId !== null) {
    await waitUntilSettled(run, node, await run.ledger.loadVmLocation(node.vm.id), true);
    orders = await ask();
  }
  relocate(run, node, orders.stageOut.vm);
  return orders;
}

export interface Verdict {
  state: 'succeeded' | 'failed' | 'cancelled';
  error: TaskError | null;
}

export function verdictOf(run: TaskRun, result: RunResult, unmatched: string[]): Verdict {
  const failed = (code: TaskError['code'], message: string): Verdict => ({ state: 'failed', error: { code, message } });
  if (result.timedOut) return failed('task-timeout', `The command was ended after timeoutS, ${run.task.spec.timeoutS} s`);
  if (result.signal !== null) return failed('command-failed', `The command was ended by signal ${result.signal}`);
  if (result.exitCode !== 0) return failed('command-failed', `The command exited with ${result.exitCode}; its log says more`);
  if (unmatched.length > 0)
    return failed('output-missing', `Nothing in /home/task matched ${unmatched.map((one) => JSON.stringify(one)).join(', ')}`);
  return { state: 'succeeded', error: null };
}

const sum = (numbers: number[]): number => numbers.reduce((total, one) => total + one, 0);
