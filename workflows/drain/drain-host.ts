import {
  CancellationScope,
  condition,
  continueAsNew,
  defineSignal,
  getExternalWorkflowHandle,
  log,
  setHandler,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import type { DrainStep, Recovery } from '../../contracts/ledger.ts';
import { type DrainId, type DrainMove, type DrainState, isDrainOver } from '../../model/drain.ts';
import type { HostId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notify, notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';
import { timing } from '../durable/timeouts.ts';
import { measureRecovery } from '../migration/measure-recovery.ts';
import { startMigration } from '../migration/start-migration.ts';

const orderChangedSignal = defineSignal(signalName.orderChanged);

/**
 * The vacating of one host, from the moment at which it was closed to the proof that it is empty. Each round asks the
 * ledger where the drain stands, which decides and writes down what is next, and does that; then it waits until a
 * migration ends, the order changes, or it is time to look again.
 *
 *   what                                                undone by
 *   host closed                                         the drain's end, unless the host is empty
 *   the making of a template there ended                (the next VM that boots for want of it asks again)
 *   images fetched by the targets                       (a cache)
 *   VMs suspended where they are, each by its own      the opening of the host, which restores them first
 *   workflow (runVm)
 *   migrations, each a saga of its own (migrateVm)      (each ends one way or the other); callOff ends them, and
 *                                                       brings back who has left, if that was asked for
 *
 * Cancelling this workflow calls the drain off.
 */
export async function drainHost(id: DrainId, pace = 1): Promise<DrainState> {
  const root = CancellationScope.current();
  const drain = new DrainRun(id, pace);
  void root.cancelRequested.catch(() => drain.cancel());
  return CancellationScope.nonCancellable(() => drain.run());
}

class DrainRun {
  readonly #id: DrainId;
  readonly #pace: number;
  readonly #ledger;
  readonly #retry: RetryForever;
  readonly #progress = new Progress();
  /** Workflows of migrations and recoveries that this run has started, and images that are being fetched. */
  readonly #started = new Set<string>();
  readonly #prefetched = new Set<string>();
  #woken = false;
  #sampling = false;
  #nextSampleMs = 0;

  constructor(id: DrainId, pace: number) {
    this.#id = id;
    this.#pace = pace;
    this.#ledger = onLedger(pace);
    this.#retry = new RetryForever(pace);
    setHandler(orderChangedSignal, () => {
      this.#woken = true;
    });
  }

  async run(): Promise<DrainState> {
    for (;;) {
      this.#woken = false;
      const step = await this.#step();
      await notifyWaiters(step.notifications);
      if (isDrainOver(step.state)) return step.state;
      for (const move of step.moves) await this.#startMigration(move);
      for (const vm of step.vmsToNotify) await notify(workflowId.vm(vm), signalName.operationRequested);
      for (const { vm, generation } of step.abort) await this.#cancelWorkflow(workflowId.migration(vm, generation));
      if (step.cancelTemplateBuilds) await this.#cancelWorkflow(workflowId.templates(step.host));
      for (const recovery of step.recoveries) await this.#startRecovery(recovery);
      this.#prefetch(step);
      this.#sampleLoads(step);
      if (step.verifyEmpty && (await this.#verifyEmpty(step.host))) continue;
      // The ledger holds all that this run knows; what it follows goes on, and is looked at every round.
      if (workflowInfo().continueAsNewSuggested && !this.#sampling) await continueAsNew<typeof drainHost>(this.#id, this.#pace);
      await condition(() => this.#woken, step.waitMs ?? timing(this.#pace).drainPollMs);
    }
  }

  async cancel(): Promise<void> {
    await CancellationScope.nonCancellable(() => this.#ledger.requestDrainCancel(this.#id));
    this.#woken = true;
  }

  async #step(): Promise<DrainStep> {
    const step = await this.#retry.run(
      () => this.#ledger.stepDrain(this.#id),
      (error) => {
        if (codeOf(error) === 'not-found') throw error;
        this.#progress.setDetail('refused', `**the ledger refuses to go on** since ${isoNow()}: ${taskErrorOf(error).message}`);
      },
    );
    this.#progress.setDetail('refused', null);
    this.#progress.setDetail('step', step.summary === '' ? null : step.summary);
    this.#progress.setAttributes({ hosts: [step.host], state: step.state, vms: step.moves.map(({ vm }) => vm) });
    return step;
  }

  /** Starts a migration, or finds it started: by the run before this one, or by the housekeeper. */
  async #startMigration({ migration, vm, generation }: DrainMove): Promise<void> {
    const workflow = workflowId.migration(vm, generation);
    if (this.#started.has(workflow)) return;
    this.#started.add(workflow);
    const child = await startMigration({ id: migration, vmId: vm, generation }, this.#pace);
    const ended = () => {
      this.#woken = true;
    };
    // How it ended is in the ledger.
    void child?.result().then(ended, ended);
  }

  /** Looked at from its own workflow: a drain that has ended doesn't wait for it. */
  async #startRecovery(recovery: Recovery): Promise<void> {
    const workflow = workflowId.recovery(recovery.migration);
    if (this.#started.has(workflow)) return;
    this.#started.add(workflow);
    await startIfAbsent(startChild(measureRecovery, { ...detachedChild, workflowId: workflow, args: [recovery, this.#pace] }));
  }

  async #cancelWorkflow(workflow: string): Promise<void> {
    try {
      await getExternalWorkflowHandle(workflow).cancel();
    } catch (error) {
      // It has ended meanwhile; the next round sees that.
      log.info('A workflow could not be ended', { workflowId: workflow, error: String(error) });
    }
  }

  /** Each once: one that failed is asked for again by the next run, or goes another way when its target was changed. */
  #prefetch({ images }: DrainStep): void {
    for (const { host, image } of images) {
      const key = `${image} at ${host}`;
      if (this.#prefetched.has(key)) continue;
      this.#prefetched.add(key);
      const fetched = async (): Promise<void> => {
        await onHost(host, this.#pace, 'throw').ensureImage(await this.#ledger.issueImageRef(image, host));
        await this.#ledger.recordImageCached(host, image);
        this.#woken = true;
      };
      void fetched().catch((error) => {
        this.#prefetched.delete(key);
        this.#progress.setDetail(key, `the image ${key} could not be fetched: ${taskErrorOf(error).message}`);
      });
    }
  }

  /** What the VMs do with their memory, now and then: the plan is made anew with it. */
  #sampleLoads({ host, sampleLoads: watch }: DrainStep): void {
    if (watch.length === 0 || this.#sampling || Date.now() < this.#nextSampleMs) return;
    this.#sampling = true;
    this.#nextSampleMs = Date.now() + timing(this.#pace).loadSampleIntervalMs;
    const looked = async (): Promise<void> => {
      try {
        await this.#ledger.recordLoads(await onHost(host, this.#pace, 'throw').observeLoads(watch));
        this.#progress.setDetail('loads', null);
      } catch (error) {
        // The plan goes on with what is known.
        this.#progress.setDetail('loads', `what the VMs write can't be seen: ${taskErrorOf(error).message}`);
      }
      this.#sampling = false;
      this.#woken = true;
    };
    void looked();
  }

  async #verifyEmpty(host: HostId): Promise<boolean> {
    try {
      return await this.#ledger.verifyHostEmpty(this.#id, await onHost(host, this.#pace, 'throw').observeInventory());
    } catch (error) {
      await this.#ledger.recordHostNotVerified(this.#id, taskErrorOf(error).message);
      return false;
    }
  }
}
