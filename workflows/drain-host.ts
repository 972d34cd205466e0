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
import type { DrainStep, Recovery } from '../activities/ledger/contract.ts';
import { type DrainId, type DrainMove, type DrainState, isDrainOver } from '../model/drain.ts';
import type { HostId } from '../model/ids.ts';
import { signalName, workflowId } from '../model/temporal.ts';
import { codeOf, taskErrorOf } from './failure.ts';
import { Insistence } from './insistence.ts';
import { onHost, onLedger } from './on-host.ts';
import { ownWay, unlessThere } from './own-way.ts';
import { now, Progress } from './progress.ts';
import { startMigration } from './start-migration.ts';
import { tell, tellPlaced } from './tell.ts';
import { waits } from './timeouts.ts';
import { watchRecovery } from './watch-recovery.ts';

const changedSignal = defineSignal(signalName.changed);

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
  const drain = new Drain(id, pace);
  void root.cancelRequested.catch(() => drain.callOff());
  return CancellationScope.nonCancellable(() => drain.run());
}

class Drain {
  readonly #id: DrainId;
  readonly #pace: number;
  readonly #ledger;
  readonly #insistence: Insistence;
  readonly #progress = new Progress();
  /** Workflows of migrations and recoveries that this run has started, and images that are being fetched. */
  readonly #followed = new Set<string>();
  readonly #fetched = new Set<string>();
  #changed = false;
  #looking = false;
  #nextLookMs = 0;

  constructor(id: DrainId, pace: number) {
    this.#id = id;
    this.#pace = pace;
    this.#ledger = onLedger(pace);
    this.#insistence = new Insistence(pace);
    setHandler(changedSignal, () => {
      this.#changed = true;
    });
  }

  async run(): Promise<DrainState> {
    for (;;) {
      this.#changed = false;
      const step = await this.#step();
      await tellPlaced(step.wake);
      if (isDrainOver(step.state)) return step.state;
      for (const move of step.moves) await this.#follow(move);
      for (const vm of step.tell) await tell(workflowId.vm(vm), signalName.asked);
      for (const { vm, generation } of step.abort) await this.#end(workflowId.migration(vm, generation));
      if (step.endTemplates) await this.#end(workflowId.templates(step.host));
      for (const recovery of step.recoveries) await this.#watch(recovery);
      this.#fetch(step);
      this.#look(step);
      if (step.prove && (await this.#prove(step.host))) continue;
      // The ledger holds all that this run knows; what it follows goes on, and is looked at every round.
      if (workflowInfo().continueAsNewSuggested && !this.#looking) await continueAsNew<typeof drainHost>(this.#id, this.#pace);
      await condition(() => this.#changed, step.waitMs ?? waits(this.#pace).drainLook);
    }
  }

  async callOff(): Promise<void> {
    await CancellationScope.nonCancellable(() => this.#ledger.requestDrainEnd(this.#id));
    this.#changed = true;
  }

  async #step(): Promise<DrainStep> {
    const step = await this.#insistence.on(
      () => this.#ledger.stepDrain(this.#id),
      (error) => {
        if (codeOf(error) === 'not-found') throw error;
        this.#progress.say('refused', `**the ledger refuses to go on** since ${now()}: ${taskErrorOf(error).message}`);
      },
    );
    this.#progress.say('refused', null);
    this.#progress.say('step', step.says === '' ? null : step.says);
    this.#progress.mark({ hosts: [step.host], state: step.state, vms: step.moves.map(({ vm }) => vm) });
    return step;
  }

  /** Starts a migration, or finds it started: by the run before this one, or by the housekeeper. */
  async #follow({ migration, vm, generation }: DrainMove): Promise<void> {
    const workflow = workflowId.migration(vm, generation);
    if (this.#followed.has(workflow)) return;
    this.#followed.add(workflow);
    const child = await startMigration({ id: migration, vmId: vm, generation }, this.#pace);
    const ended = () => {
      this.#changed = true;
    };
    // How it ended is in the ledger.
    void child?.result().then(ended, ended);
  }

  /** Looked at from its own workflow: a drain that has ended doesn't wait for it. */
  async #watch(recovery: Recovery): Promise<void> {
    const workflow = workflowId.recovery(recovery.migration);
    if (this.#followed.has(workflow)) return;
    this.#followed.add(workflow);
    await unlessThere(startChild(watchRecovery, { ...ownWay, workflowId: workflow, args: [recovery, this.#pace] }));
  }

  async #end(workflow: string): Promise<void> {
    try {
      await getExternalWorkflowHandle(workflow).cancel();
    } catch (error) {
      // It has ended meanwhile; the next round sees that.
      log.info('A workflow could not be ended', { workflowId: workflow, error: String(error) });
    }
  }

  /** Each once: one that failed is asked for again by the next run, or goes another way when its target was changed. */
  #fetch({ images }: DrainStep): void {
    for (const { host, image } of images) {
      const key = `${image} at ${host}`;
      if (this.#fetched.has(key)) continue;
      this.#fetched.add(key);
      const fetched = async (): Promise<void> => {
        await onHost(host, this.#pace, 'throw').ensureImage(await this.#ledger.imageFor(image, host));
        await this.#ledger.imageCached(host, image);
        this.#changed = true;
      };
      void fetched().catch((error) => {
        this.#fetched.delete(key);
        this.#progress.say(key, `the image ${key} could not be fetched: ${taskErrorOf(error).message}`);
      });
    }
  }

  /** What the VMs do with their memory, now and then: the plan is made anew with it. */
  #look({ host, watch }: DrainStep): void {
    if (watch.length === 0 || this.#looking || Date.now() < this.#nextLookMs) return;
    this.#looking = true;
    this.#nextLookMs = Date.now() + waits(this.#pace).loadLook;
    const looked = async (): Promise<void> => {
      try {
        await this.#ledger.noteLoads(await onHost(host, this.#pace, 'throw').observeLoads(watch));
        this.#progress.say('loads', null);
      } catch (error) {
        // The plan goes on with what is known.
        this.#progress.say('loads', `what the VMs write can't be seen: ${taskErrorOf(error).message}`);
      }
      this.#looking = false;
      this.#changed = true;
    };
    void looked();
  }

  async #prove(host: HostId): Promise<boolean> {
    try {
      return await this.#ledger.proveEmpty(this.#id, await onHost(host, this.#pace, 'throw').inventory());
    } catch (error) {
      await this.#ledger.missProof(this.#id, taskErrorOf(error).message);
      return false;
    }
  }
}
