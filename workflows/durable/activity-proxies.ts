import { type ActivityOptions, CancellationScope, proxyActivities, proxyLocalActivities, sleep } from '@temporalio/workflow';
import type { ImageSource } from '../../contracts/host.ts';
import type { HostCalls } from '../../contracts/host-calls.ts';
import type { LedgerActivities } from '../../contracts/ledger.ts';
import type { WebhookActivities } from '../../contracts/webhooks.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import { hostQueue, webhooksQueue } from '../../model/temporal.ts';
import { Backoff } from './backoff.ts';
import { codeOf, isPermanent, neverStarted } from './failure.ts';
import { hostOptions, ledgerOptions, timing, webhookOptions } from './timeouts.ts';

type ActivityName = keyof HostCalls;

/** When no worker takes an activity from a host's queue: report it and wait for the host, or throw and use another host. */
export type WhenUnreachable = { wait: (activity: ActivityName) => void } | 'throw';

/**
 * The activities on one host. An unreachable host is no failed step: the saga waits, until its caller ends that (a lease
 * ends, a cancellation arrives). The first attempt has a schedule-to-start timeout, so that the saga notices; the second
 * one has none, because each timeout lengthens the history. A host that can't fetch the rest of its arguments, because the API
 * is away, has not begun either: the step is repeated without limit.
 * @param more instead of the options of each activity's class
 */
export function onHost(host: HostId, pace: number, unreachable: WhenUnreachable, more: ActivityOptions = {}): HostCalls {
  const call =
    (activity: ActivityName) =>
    async (...args: unknown[]): Promise<unknown> => {
      const options = { ...hostOptions(activity, pace), ...more, taskQueue: hostQueue(host) };
      const run = (toStart: { scheduleToStartTimeout?: number }) =>
        proxyActivities<Record<ActivityName, (...args: unknown[]) => Promise<unknown>>>({ ...options, ...toStart })[activity](
          ...args,
        );
      const runOrWait = async (): Promise<unknown> => {
        try {
          return await run({ scheduleToStartTimeout: timing(pace).unreachableAfterMs });
        } catch (error) {
          if (!neverStarted(error) || unreachable === 'throw') throw error;
          unreachable.wait(activity);
          return run({});
        }
      };
      for (let backoff: Backoff | null = null; ; ) {
        try {
          return await runOrWait();
        } catch (error) {
          if (codeOf(error) !== 'orders-unavailable') throw error;
        }
        backoff ??= new Backoff(timing(pace).ordersBackoff);
        await sleep(backoff.next());
      }
    };
  return new Proxy({} as HostCalls, { get: (_, activity) => call(activity as ActivityName) });
}

/** The activities of the queue of deliveries: a queue of its own, so that no ledger step waits for a receiver. */
export const onWebhooks = (pace: number): WebhookActivities =>
  proxyActivities<WebhookActivities>({ ...webhookOptions(pace), taskQueue: webhooksQueue });

let lastOnLedger: Promise<unknown> = Promise.resolve();

/**
 * Runs a workflow's local activities one after the other. Of two that run concurrently, a replay may see the other one end
 * first, and a workflow that waits for either would then issue other commands than before.
 */
function serialize<T>(act: () => Promise<T>): Promise<T> {
  const mine = lastOnLedger.then(act, act);
  lastOnLedger = mine;
  return mine;
}

/**
 * The activities on the ledger, in the control worker's own process. They are short and always finish: a cancellation takes
 * effect at the next activity on a host, so that the result of a transaction is known before it is undone. A failure that a
 * repetition can mend is repeated without limit, after a timer: between the series of attempts the step holds no slot of the
 * control worker, and other branches of the workflow continue.
 */
export function onLedger(pace: number): LedgerActivities {
  const proxied = proxyLocalActivities<Record<string, (...args: unknown[]) => Promise<unknown>>>(ledgerOptions());
  const call =
    (activity: string) =>
    (...args: unknown[]) =>
      CancellationScope.nonCancellable(async () => {
        for (let backoff: Backoff | null = null; ; ) {
          try {
            return await serialize(async () => proxied[activity]!(...args));
          } catch (error) {
            if (isPermanent(error)) throw error;
          }
          backoff ??= new Backoff(timing(pace).ledgerBackoff);
          await sleep(backoff.next());
        }
      });
  return new Proxy({} as LedgerActivities, { get: (_, activity) => call(String(activity)) });
}

/** After a step that needed an image: the ledger learns that the host's cache has it now. It stays there until evicted. */
export async function recordIfFetched(
  ledger: LedgerActivities,
  { host, image }: { host: HostId; image: { id: ImageId } },
  source: ImageSource,
): Promise<void> {
  if (source !== 'cache') await ledger.recordImageCached(host, image.id);
}
