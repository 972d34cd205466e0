import { Context } from '@temporalio/activity';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { toFailure } from '../../activities/failure.ts';
import { BerthError, type ErrorCode } from '../../model/errors.ts';

/** What can befall one call of an activity. Each happens once: its retry meets none. */
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
} as const;
export type Fault = keyof typeof faults;

/** The nth call of an activity by one workflow; its retries are the same call. */
export interface Call {
  name: string;
  nth: number;
}

/** Each of these calls under each fault: what `test.concurrent.each` goes through, none waiting for the end of a group. */
export const everyFault = (calls: readonly Call[]): (Call & { fault: Fault; what: string })[] =>
  (Object.entries(faults) as [Fault, string][]).flatMap(([fault, what]) => calls.map((call) => ({ ...call, fault, what })));

interface Plan extends Call {
  fault: Fault;
  /** With which a refusal comes. */
  code: ErrorCode;
  fired: boolean;
}

type Act = (...args: unknown[]) => Promise<unknown>;

const refusal = (code: ErrorCode): Error => toFailure(new BerthError(code, 'injected: refused for good'));
const failure = (): Error => toFailure(new BerthError('internal', 'injected: failed, may be tried again'));

/** A killed worker says nothing more: no result, no heartbeat. Only the end of this process's worker ends the wait. */
export function killed(): Promise<never> {
  const { cancellationSignal } = Context.current();
  return new Promise((_, reject) => {
    cancellationSignal.addEventListener('abort', () => reject(cancellationSignal.reason));
  });
}

/** Stands around the activities of all workers: writes down every call of every workflow, and injects what was planned. */
export class Faults {
  readonly #calls = new Map<string, Map<string, Call>>();
  readonly #plans = new Map<string, Plan>();
  readonly #late = new Map<string, () => Promise<unknown>>();
  readonly #cancel: (workflowId: string) => Promise<unknown>;

  constructor(cancel: (workflowId: string) => Promise<unknown>) {
    this.#cancel = cancel;
  }

  plan(workflowId: string, call: Call, fault: Fault, code: ErrorCode = 'disk-full'): void {
    this.#plans.set(workflowId, { ...call, fault, code, fired: false });
  }

  /** Whether the planned call came at all. */
  fired(workflowId: string): boolean {
    return this.#plans.get(workflowId)?.fired ?? false;
  }

  callsOf(workflowId: string): Call[] {
    return [...(this.#calls.get(workflowId)?.values() ?? [])];
  }

  /** The attempt that was held back, when all is over. Its outcome is its own affair. */
  async runLate(workflowId: string): Promise<void> {
    const act = this.#late.get(workflowId);
    if (act === undefined) throw new Error(`nothing was held back of ${workflowId}`);
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
    // Ids of local and of remote activities are counted apart, and their retries keep them.
    const key = `${name} ${activityId}`;
    const call = calls.get(key) ?? { name, nth: [...calls.values()].filter((one) => one.name === name).length + 1 };
    calls.set(key, call);
    return { workflowId, call };
  }

  async #meet(name: string, act: () => Promise<unknown>): Promise<unknown> {
    const { workflowId, call } = this.#identify(name);
    const plan = this.#plans.get(workflowId);
    if (plan === undefined || plan.fired || plan.name !== call.name || plan.nth !== call.nth) return act();
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
        this.#late.set(workflowId, act);
        return act();
      case 'killedBefore':
        return killed();
      case 'killedAfter':
        await act();
        return killed();
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
