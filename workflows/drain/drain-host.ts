import { CancellationScope, continueAsNew, patched } from '@temporalio/workflow';
import type { DrainStep, Recovery } from '../../contracts/ledger.ts';
import { type DrainId, type DrainMove, type DrainState, isDrainOver } from '../../model/drain.ts';
import type { HostId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { cancelIfRunning, notify, notifyWaiters, startDetached } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { loadOrFail, RetryForever } from '../durable/retry-forever.ts';
import type { StepRow } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';
import { WakeUp } from '../durable/wake-up.ts';
import { measureRecovery } from '../migration/measure-recovery.ts';
import { startMigration } from '../migration/start-migration.ts';

/** What a round does, in this order. */
export const drainSteps: readonly StepRow[] = [
  {
    name: 'decide',
    does: 'closes the host, decides what is next and writes it in one transaction (stepDrain)',
    undoneBy: "the drain's end, which opens the host unless it is empty",
  },
  {
    name: 'migrate',
    does: 'starts a migrateVm workflow for each move',
    undoneBy: 'each by its own saga; a cancelled drain aborts them, and returns the VMs where requested',
  },
  {
    name: 'suspend',
    does: 'signals runVm workflows that have to suspend or restore their VM',
    undoneBy: 'the opening of the host, which restores them first',
  },
  {
    name: 'abort',
    does: 'cancels migrations that the plan does not need any more',
    undoneBy: 'nothing: each migration undoes itself',
  },
  {
    name: 'cancelTemplateBuilds',
    does: "cancels the host's buildTemplates workflow",
    undoneBy: 'nothing: the next cold boot requests the template again',
  },
  {
    name: 'measureRecovery',
    does: 'starts a measureRecovery workflow for each VM that has moved',
    undoneBy: 'nothing: it only observes',
  },
  { name: 'prefetch', does: 'brings images to the targets', undoneBy: 'nothing: it changes only caches' },
  { name: 'sampleLoads', does: "samples the VMs' loads, for the next plan", undoneBy: 'nothing: it only observes' },
  {
    name: 'verifyEmpty',
    does: 'compares the host with the ledger, when that has nothing on it any more',
    undoneBy: 'nothing: it only observes',
  },
];

/**
 * Drains one host until it is verified to be empty. Each round executes what the ledger decides (see drainSteps), then waits
 * until a migration ends, the order changes, or the poll interval has passed. Cancelling this workflow cancels the drain.
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
  /** Workflows of migrations and recoveries that this run has started, and images whose transfer it has started. */
  readonly #started = new Set<string>();
  readonly #prefetched = new Set<string>();
  readonly #wakeUp = new WakeUp(signalName.orderChanged);
  #sampling = false;
  #nextSampleMs = 0;

  constructor(id: DrainId, pace: number) {
    this.#id = id;
    this.#pace = pace;
    this.#ledger = onLedger(pace);
    this.#retry = new RetryForever(pace);
  }

  async run(): Promise<DrainState> {
    for (;;) {
      this.#wakeUp.reset();
      const step = await this.#step();
      await notifyWaiters(step.notifications);
      if (isDrainOver(step.state)) return step.state;
      for (const move of step.moves) await this.#startMigration(move);
      for (const vm of step.vmsToNotify) await notify(workflowId.vm(vm), signalName.operationRequested);
      for (const { vm, generation } of step.abort) await cancelIfRunning(workflowId.migration(vm, generation));
      if (step.cancelTemplateBuilds) await cancelIfRunning(workflowId.templates(step.host));
      for (const recovery of step.recoveries) await this.#startRecovery(recovery);
      this.#prefetch(step);
      this.#sampleLoads(step);
      if (step.verifyEmpty && (await this.#verifyEmpty(step.host))) continue;
      // The ledger holds all that this run knows; the next run follows the same workflows, and samples again: of a host
      // that does not answer, one sample follows the other.
      if (isHistoryLong() && (!this.#sampling || patched('drain-samples')))
        await continueAsNew<typeof drainHost>(this.#id, this.#pace);
      await this.#wakeUp.wait(step.waitMs ?? timing(this.#pace).drainPollMs);
    }
  }

  async cancel(): Promise<void> {
    await CancellationScope.nonCancellable(() => this.#ledger.requestDrainCancel(this.#id));
    this.#wakeUp.wake();
  }

  async #step(): Promise<DrainStep> {
    const showRefusal = (error: unknown) =>
      this.#progress.setDetail(
        'refused',
        `**the ledger refuses the next round** since ${isoNow()}: ${taskErrorOf(error).message}`,
      );
    const step = await loadOrFail(this.#retry, () => this.#ledger.stepDrain(this.#id), showRefusal);
    this.#progress.setDetail('refused', null);
    this.#progress.setDetail('step', step.summary === '' ? null : step.summary);
    this.#progress.setAttributes({ hosts: [step.host], state: step.state, vms: step.moves.map(({ vm }) => vm) });
    return step;
  }

  /** Starts a migration, unless it runs already: the run before this one, or housekeeping, may have started it. */
  async #startMigration({ migration, vm, generation }: DrainMove): Promise<void> {
    const workflow = workflowId.migration(vm, generation);
    if (this.#started.has(workflow)) return;
    this.#started.add(workflow);
    const child = await startMigration({ id: migration, vmId: vm, generation }, this.#pace);
    // Its result is in the ledger.
    void child?.result().then(this.#wakeUp.wake, this.#wakeUp.wake);
  }

  /** A workflow of its own, because the drain does not wait for it. */
  async #startRecovery(recovery: Recovery): Promise<void> {
    const workflow = workflowId.recovery(recovery.migration);
    if (this.#started.has(workflow)) return;
    this.#started.add(workflow);
    await startDetached(measureRecovery, workflow, [recovery, this.#pace]);
  }

  /** Each image once per host; a failed transfer is repeated in the next round. */
  #prefetch({ images }: DrainStep): void {
    for (const { host, image } of images) {
      const key = `${image} at ${host}`;
      if (this.#prefetched.has(key)) continue;
      this.#prefetched.add(key);
      const fetch = async (): Promise<void> => {
        await onHost(host, this.#pace, 'throw').ensureImage(await this.#ledger.issueImageRef(image, host));
        await this.#ledger.recordImageCached(host, image);
        this.#wakeUp.wake();
      };
      void fetch().catch((error) => {
        this.#prefetched.delete(key);
        this.#progress.setDetail(key, `the image ${key} could not be fetched: ${taskErrorOf(error).message}`);
      });
    }
  }

  /** Samples loads at intervals; the ledger makes a new plan with them. */
  #sampleLoads({ host, sampleLoads: vms }: DrainStep): void {
    if (vms.length === 0 || this.#sampling || Date.now() < this.#nextSampleMs) return;
    this.#sampling = true;
    this.#nextSampleMs = Date.now() + timing(this.#pace).loadSampleIntervalMs;
    const sample = async (): Promise<void> => {
      try {
        await this.#ledger.recordLoads(await onHost(host, this.#pace, 'throw').observeLoads(vms));
        this.#progress.setDetail('loads', null);
      } catch (error) {
        // The plan uses the last known loads.
        this.#progress.setDetail('loads', `the loads can't be observed: ${taskErrorOf(error).message}`);
      }
      this.#sampling = false;
      this.#wakeUp.wake();
    };
    void sample();
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
