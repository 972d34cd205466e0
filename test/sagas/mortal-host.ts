import { Context } from '@temporalio/activity';
import { guard } from '../../activities/failure.ts';
import { createHostActivities } from '../../activities/host/index.ts';
import type { HostActivities } from '../../contracts/host.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import { killed } from './faults.ts';

/** A moment in an attempt: before or after it first called a method of a port. */
export interface Moment {
  step: string;
  method: string;
  when: 'before' | 'after';
}

/** Activities of one host whose process dies at planned moments, once each, and comes back with nothing in memory. */
export class MortalHost {
  /** What each step calls in a clean run, by step. */
  readonly methods = new Map<string, Set<string>>();
  readonly #plans: Map<string, Moment>;
  readonly #ports: HostPorts;

  /** @param plans by workflow id; shared by the hosts of a site, because nobody knows where a task will be */
  constructor(ports: HostPorts, plans: Map<string, Moment>) {
    this.#plans = plans;
    this.#ports = this.#watched(ports);
  }

  /** Every attempt is a process of its own: what the one before held in memory died with it. */
  activities(): HostActivities {
    const names = Object.keys(createHostActivities(this.#ports)) as (keyof HostActivities)[];
    const acts = names.map((name) => [
      name,
      (...args: unknown[]) => {
        const fresh = guard(createHostActivities(this.#ports)) as unknown as Record<
          string,
          (...args: unknown[]) => Promise<unknown>
        >;
        return fresh[name]!(...args);
      },
    ]);
    return Object.fromEntries(acts) as HostActivities;
  }

  #watched(ports: HostPorts): HostPorts {
    const entries = Object.entries(ports).map(([name, port]) => [
      name,
      name === 'clock' ? port : this.#watchedPort(name, port as object),
    ]);
    return Object.fromEntries(entries) as HostPorts;
  }

  #watchedPort<P extends object>(portName: string, port: P): P {
    return new Proxy(port, {
      get: (target, key) => {
        const value: unknown = Reflect.get(target, key);
        if (typeof value !== 'function' || value.constructor.name !== 'AsyncFunction') return value;
        const method = `${portName}.${String(key)}`;
        return async (...args: unknown[]) => {
          await this.#survive(method, 'before');
          const result: unknown = await Reflect.apply(value, target, args);
          await this.#survive(method, 'after');
          return result;
        };
      },
    });
  }

  async #survive(method: string, when: Moment['when']): Promise<void> {
    const context = Context.current();
    const { workflowExecution, activityType: step } = context.info;
    const workflowId = workflowExecution?.workflowId ?? '';
    this.methods.set(step, (this.methods.get(step) ?? new Set()).add(method));
    const plan = this.#plans.get(workflowId);
    if (plan === undefined || plan.step !== step || plan.method !== method || plan.when !== when) return;
    this.#plans.delete(workflowId);
    // A dead process beats no more, and nothing of what follows in its code is run: no catch, no finally.
    Object.assign(context, { heartbeat: () => undefined });
    await killed();
  }
}
