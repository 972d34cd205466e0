import { Context } from '@temporalio/activity';
import { guard } from '../../activities/failure.ts';
import { createHostActivities } from '../../activities/host/index.ts';
import type { HostActivities } from '../../contracts/host.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import { killed } from './faults.ts';

/** A moment in an attempt: before or after its first call of a method of a port. */
export interface Moment {
  step: string;
  method: string;
  when: 'before' | 'after';
}

/** Activities of one host whose process is killed at planned moments, once each, and restarts with nothing in memory. */
export class MortalHost {
  /** The calls of each step in a clean run, by step. */
  readonly methods = new Map<string, Set<string>>();
  readonly #plans: Map<string, Moment>;
  readonly #ports: HostPorts;

  /** @param plans by workflow id; the hosts of a site share them, because the host of a task is not known in advance */
  constructor(ports: HostPorts, plans: Map<string, Moment>) {
    this.#plans = plans;
    this.#ports = this.#watched(ports);
  }

  /** Every attempt is a process of its own: the memory of the one before died with it. */
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
    // A dead process sends no more heartbeats, and runs none of the code that follows: no catch, no finally.
    Object.assign(context, { heartbeat: () => undefined });
    await killed();
  }
}
