import { Context } from '@temporalio/activity';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { toFailure } from '../../activities/failure.ts';
import { createHostActivities } from '../../activities/host/index.ts';
import { createFakeHost } from '../../drivers/fake/host.ts';
import { createFakeRepository } from '../../drivers/fake/repository.ts';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { isFull } from '../tier.ts';

/** The faults of one call of an activity. Each happens once: the retry meets none. */
export const faults = {
  failsBefore: 'fails before its effect, and may be tried again',
  refusedBefore: 'is refused before its effect, for good',
  failsAfter: 'takes effect, then fails, and may be tried again',
  refusedAfter: 'takes effect, then is refused for good',
  twice: 'runs twice',
  late: 'runs once more when all is over',
  killedBefore: 'its worker is killed before its effect',
  killedAfter: 'its worker is killed after its effect',
  cancelledBefore: 'the task is cancelled just before its effect',
  cancelledAfter: 'the task is cancelled just after its effect',
  restartedBefore: 'its workflow is ended from outside and started again just before its effect, which comes all the same',
  restartedAfter: 'its workflow is ended from outside and started again just after its effect',
} as const;
export type Fault = keyof typeof faults;

/** The nth call of an activity by one workflow; its retries are the same call. */
export interface Call {
  name: string;
  nth: number;
}

/** An operator, or the loss of Temporal's data, ends a workflow; the housekeeping starts it again under its id. */
const restarts: readonly Fault[] = ['restartedBefore', 'restartedAfter'];

const allFaults = (Object.keys(faults) as Fault[]).filter((fault) => !restarts.includes(fault));

/** The activities of host workers; the others are the ledger's. */
const onHost = new Set(
  Object.keys(createHostActivities(createFakeHost({ id: 'none', repository: createFakeRepository() }).ports)),
);

/**
 * Of each kind of fault, the one that finds what the others of its kind would. What can be retried or undone after its
 * effect can be so before it: then an undo or a retry finds nothing to do. A retry after the effect is a second run:
 * `twice`. The attempt of a killed worker is retried like one that failed; on a host, the next attempt also lacks the
 * memory of the one before. A cancellation before the effect is pending while the effect is made. A late attempt meets what
 * the end has left.
 */
const strongestOnHost: Fault[] = ['refusedAfter', 'late', 'killedAfter', 'cancelledBefore'];
/**
 * A step on the ledger is one transaction and keeps nothing in memory: for its saga, a killed worker and a reported failure
 * are the same (killed-control.test.ts kills the process itself), and what runs late finds a state that its transaction
 * refuses, as a retry after its effect does. A cancellation before it is met by the host's call after it, or was by the
 * one before.
 */
const strongestOnLedger: Fault[] = ['failsAfter', 'refusedAfter'];

/**
 * Faults for the calls of a variant of a saga whose own matrix has every kind: one that is retried and one that is undone.
 * A full run has all of them.
 */
export const faultsOfVariant: readonly Fault[] = isFull ? allFaults : ['failsAfter', 'killedAfter', 'refusedAfter'];

/** For a variant with the same calls as its saga: what is undone differs in it, a retry does not. A full run has all of them. */
export const undosOfVariant: readonly Fault[] = isFull ? allFaults : ['refusedAfter'];

type FaultCase<C> = C & { fault: Fault; what: string };

/** After these a saga goes on, and ends as if there had been none. */
const survived: readonly Fault[] = ['failsBefore', 'failsAfter', 'twice', 'late', 'killedBefore', 'killedAfter'];

/** Each is noticed after a heartbeat's timeout, and a test has a time limit also on a busy machine. */
const mostKillsOfRun = 3;

/** One run of a saga: these of its calls meet the fault. */
interface FaultRun<C> {
  calls: C[];
  fault: Fault;
  /** The calls, for the name of the test. */
  at: string;
  what: string;
}

/**
 * These calls under these faults, for `test.concurrent.each`, without waiting for the end of a group. A full run has the
 * whole product; any other run has each call under the strongest fault of each kind.
 */
export const everyFault = <C extends Call>(calls: readonly C[], of: readonly Fault[] = allFaults): FaultCase<C>[] =>
  of.flatMap((fault) =>
    calls
      .filter(({ name }) => isFull || strongest(name).includes(fault))
      .map((call) => ({ ...call, fault, what: faults[fault] })),
  );

/**
 * The runs of a saga in which these calls meet these faults, by everyFault. A fault that ends the saga, or turns it back, has a
 * run for each call. One that it survives leaves it as if there had been none: in `npm test` all calls meet it in one run,
 * one after the other, and in a full run each has a run of its own.
 */
export function everyRun<C extends Call>(calls: readonly C[], of: readonly Fault[] = allFaults): FaultRun<C>[] {
  const cases = everyFault(calls, of);
  const isShared = ({ fault }: FaultCase<C>): boolean => !isFull && survived.includes(fault);
  const alone = cases.filter((one) => !isShared(one)).map((one) => [one]);
  const together = survived.flatMap((fault) => {
    const shared = cases.filter((one) => isShared(one) && one.fault === fault);
    const most = fault.startsWith('killed') ? mostKillsOfRun : shared.length;
    return Array.from({ length: Math.ceil(shared.length / most) || 0 }, (_, nth) => shared.slice(nth * most, (nth + 1) * most));
  });
  // The longest first: they run side by side.
  return [...together, ...alone].map((run) => ({
    calls: run,
    fault: run[0]!.fault,
    at: run.map(({ name, nth }) => `${name} ${nth}`).join(', '),
    what: run[0]!.what,
  }));
}

const strongest = (name: string): Fault[] => (onHost.has(name) ? strongestOnHost : strongestOnLedger);

/**
 * These calls, at each of which the saga is ended from outside. A full run has both moments of all; any other run has that
 * after each effect on a host. After a step on the ledger and before the host's next call a saga finds the same.
 */
export const everyRestart = <C extends Call>(calls: readonly C[]): FaultCase<C>[] =>
  restarts.flatMap((fault) =>
    calls
      .filter(({ name }) => isFull || (fault === 'restartedAfter' && onHost.has(name)))
      .map((call) => ({ ...call, fault, what: faults[fault] })),
  );

/** All faults except those of these kinds. */
export const faultsBut = (...kinds: ('refused' | 'cancelled')[]): Fault[] =>
  allFaults.filter((fault) => !kinds.some((kind) => fault.startsWith(kind)));

interface Plan extends Call {
  fault: Fault;
  /** The error of a refusal. */
  code: ErrorCode;
  fired: boolean;
}

type Act = (...args: unknown[]) => Promise<unknown>;

const runId = (): string | undefined => Context.current().info.workflowExecution?.runId;
const refusal = (code: ErrorCode): Error => toFailure(new BerthError(code, 'injected: refused for good'));
const failure = (): Error => toFailure(new BerthError('internal', 'injected: failed, may be tried again'));

/** A killed worker reports nothing more: no result, no heartbeat. Only the end of this process's worker ends the wait. */
export function killed(): Promise<never> {
  const { cancellationSignal } = Context.current();
  return new Promise((_, reject) => {
    cancellationSignal.addEventListener('abort', () => reject(cancellationSignal.reason));
  });
}

/** A run that was ended from outside, whose next call comes between the first and the second call of the run after it. */
class Overtaking {
  #endedRun: string | undefined;
  #isRead = false;
  readonly #read = Promise.withResolvers<void>();
  readonly #followed = Promise.withResolvers<void>();

  /** Once the next run has made its first call. */
  async begin(run: string | undefined, restart: () => Promise<unknown>): Promise<void> {
    this.#endedRun = run;
    await restart();
    await this.#read.promise;
  }

  async inOrder(run: string | undefined, act: () => Promise<unknown>): Promise<unknown> {
    if (this.#endedRun === undefined) return act();
    if (run === this.#endedRun) return act().finally(() => this.#followed.resolve());
    if (this.#isRead) await this.#followed.promise;
    this.#isRead = true;
    return act().finally(() => this.#read.resolve());
  }
}

/** Wraps the activities of all workers: records every call of every workflow, and injects the planned faults. */
export class Faults {
  readonly #calls = new Map<string, Map<string, Call>>();
  readonly #plans = new Map<string, Plan[]>();
  readonly #broken = new Map<string, string>();
  readonly #late = new Map<string, (() => Promise<unknown>)[]>();
  readonly #cancel: (workflowId: string) => Promise<unknown>;
  readonly #restart: (workflowId: string) => Promise<unknown>;
  readonly #restarted = new Set<string>();
  readonly #overtaking = new Map<string, Overtaking>();

  constructor(cancel: (workflowId: string) => Promise<unknown>, restart: (workflowId: string) => Promise<unknown>) {
    this.#cancel = cancel;
    this.#restart = restart;
  }

  /** @param at one call, or several, each of which meets the fault; in place of what was planned before */
  plan(workflowId: string, at: Call | readonly Call[], fault: Fault, code: ErrorCode = 'disk-full'): void {
    const calls = [at].flat() as Call[];
    this.#plans.set(
      workflowId,
      calls.map(({ name, nth }) => ({ name, nth, fault, code, fired: false })),
    );
  }

  /**
   * Its workflow is ended from outside and started again just before the effect of this call. Both come once the next run has read
   * what there is, and before it goes on: the effect, and the call that follows it in the run that was ended.
   */
  planOvertaking(workflowId: string, at: Call): void {
    this.plan(workflowId, at, 'restartedBefore');
    this.#overtaking.set(workflowId, new Overtaking());
  }

  /** Every call of this activity by this workflow fails, and may be tried again. */
  breakForever(workflowId: string, name: string): void {
    this.#broken.set(workflowId, name);
  }

  repair(): void {
    this.#broken.clear();
  }

  /** Whether each of the planned calls was made at all. */
  fired(workflowId: string): boolean {
    return this.#plans.get(workflowId)?.every(({ fired }) => fired) ?? false;
  }

  /** What is known of a workflow that is over: a long run would keep it all. */
  forget(workflowId: string): void {
    for (const kept of [this.#calls, this.#plans, this.#late, this.#overtaking]) kept.delete(workflowId);
  }

  /** Whether the workflow was ended and started again, as planned. */
  restarted(workflowId: string): boolean {
    return this.#restarted.has(workflowId);
  }

  callsOf(workflowId: string): Call[] {
    return [...(this.#calls.get(workflowId)?.values() ?? [])];
  }

  /** Runs the attempts that were held back, after the end of the workflow. Their outcome does not matter. */
  async runLate(workflowId: string): Promise<void> {
    const acts = this.#late.get(workflowId);
    if (acts === undefined) throw new Error(`nothing was held back of ${workflowId}`);
    for (const act of acts)
      await new MockActivityEnvironment(undefined, { logger: new DefaultLogger('ERROR') }).run(act).catch(() => undefined);
  }

  wrap<T extends object>(activities: T): T {
    const wrapped: Record<string, unknown> = {};
    for (const [name, act] of Object.entries(activities))
      wrapped[name] = (...args: unknown[]) => this.#meet(name, () => (act as Act)(...args));
    return wrapped as T;
  }

  #identify(name: string): { workflowId: string; call: Call } {
    const { workflowExecution, activityId } = Context.current().info;
    const workflowId = workflowExecution?.workflowId ?? '';
    const calls = this.#calls.get(workflowId) ?? new Map<string, Call>();
    this.#calls.set(workflowId, calls);
    // Local and remote activities have separate counters for their ids, and retries keep the id.
    const key = `${name} ${activityId}`;
    const call = calls.get(key) ?? { name, nth: [...calls.values()].filter((one) => one.name === name).length + 1 };
    calls.set(key, call);
    return { workflowId, call };
  }

  async #meet(name: string, act: () => Promise<unknown>): Promise<unknown> {
    const { workflowId, call } = this.#identify(name);
    if (this.#broken.get(workflowId) === name) throw failure();
    const plan = this.#plans.get(workflowId)?.find(({ name, nth }) => name === call.name && nth === call.nth);
    if (plan === undefined || plan.fired) return this.#overtaking.get(workflowId)?.inOrder(runId(), act) ?? act();
    plan.fired = true;
    return this.#befall(plan, workflowId, act);
  }

  async #befall({ fault, code }: Plan, workflowId: string, act: () => Promise<unknown>): Promise<unknown> {
    switch (fault) {
      case 'failsBefore':
        throw failure();
      case 'refusedBefore':
        throw refusal(code);
      case 'failsAfter':
        await act();
        throw failure();
      case 'refusedAfter':
        await act();
        throw refusal(code);
      case 'twice':
        await act();
        return act();
      case 'late':
        this.#late.set(workflowId, [...(this.#late.get(workflowId) ?? []), act]);
        return act();
      case 'killedBefore':
        return killed();
      case 'killedAfter':
        await act();
        return killed();
      case 'restartedBefore': {
        const restart = () => this.#restart(workflowId);
        await (this.#overtaking.get(workflowId)?.begin(runId(), restart) ?? restart());
        this.#restarted.add(workflowId);
        return act();
      }
      case 'restartedAfter': {
        const result = await act();
        await this.#restart(workflowId);
        this.#restarted.add(workflowId);
        return result;
      }
      case 'cancelledBefore':
        await this.#cancel(workflowId);
        return act();
      case 'cancelledAfter': {
        const result = await act();
        await this.#cancel(workflowId);
        return result;
      }
    }
  }
}
