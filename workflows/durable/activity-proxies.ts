import { CancellationScope, proxyActivities, proxyLocalActivities } from '@temporalio/workflow';
import type { HostActivities } from '../../contracts/host.ts';
import type { LedgerActivities } from '../../contracts/ledger.ts';
import type { HostId } from '../../model/ids.ts';
import { hostQueue } from '../../model/temporal.ts';
import { neverStarted } from './failure.ts';
import { hostOptions, ledgerOptions, timing } from './timeouts.ts';

type Step = keyof HostActivities;

/** What to do when nobody takes a step from a host's queue: say so and wait for the host, or throw and go elsewhere. */
export type WhenUnreachable = { wait: (step: Step) => void } | 'throw';

/**
 * The steps on one host. A silent host is no failed step: the saga waits, and whoever called decides for how long
 * (a lease ends, a cancellation comes). One question is asked with a limit, so that the silence is seen; what waits
 * after it waits without one, because each limit that passes would lengthen the history.
 */
export function onHost(host: HostId, pace: number, unreachable: WhenUnreachable): HostActivities {
  const call =
    (step: Step) =>
    async (...args: unknown[]): Promise<unknown> => {
      const options = { ...hostOptions(step, pace), taskQueue: hostQueue(host) };
      const act = (more: { scheduleToStartTimeout?: number }) =>
        proxyActivities<Record<Step, (...args: unknown[]) => Promise<unknown>>>({ ...options, ...more })[step](...args);
      try {
        return await act({ scheduleToStartTimeout: timing(pace).unreachableAfterMs });
      } catch (error) {
        if (!neverStarted(error) || unreachable === 'throw') throw error;
        unreachable.wait(step);
        return act({});
      }
    };
  return new Proxy({} as HostActivities, { get: (_, step) => call(step as Step) });
}

let lastOnLedger: Promise<unknown> = Promise.resolve();

/**
 * One after the other in a workflow: of two local activities side by side, a replay may see the other one end first, and
 * whoever waits for either would then not do again what it did.
 */
function serialize<T>(act: () => Promise<T>): Promise<T> {
  const mine = lastOnLedger.then(act, act);
  lastOnLedger = mine;
  return mine;
}

/**
 * The steps on the ledger, in the control worker's own process. They are short and always finish: a cancellation is
 * noticed by the next step on a host, so that what a transaction did is known before it is undone.
 */
export function onLedger(pace: number): LedgerActivities {
  const proxied = proxyLocalActivities<Record<string, (...args: unknown[]) => Promise<unknown>>>(ledgerOptions(pace));
  const call =
    (step: string) =>
    (...args: unknown[]) =>
      CancellationScope.nonCancellable(() => serialize(async () => proxied[step]!(...args)));
  return new Proxy({} as LedgerActivities, { get: (_, step) => call(String(step)) });
}
