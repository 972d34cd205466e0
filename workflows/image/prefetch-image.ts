import { CancellationScope, condition, isCancellation } from '@temporalio/workflow';
import type { HostId, ImageId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { allOrCancel, withTimeout } from '../durable/cancellation-scopes.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { isoNow, Progress } from '../durable/progress.ts';

/** Image X on hosts H before T. */
export interface PrefetchRequest {
  image: ImageId;
  hosts: HostId[];
  /** RFC 3339. What isn't there by then is given up. */
  deadline: string;
  /** RFC 3339: the hosts keep it until then, also unused. */
  pinnedUntil: string;
}

export interface PrefetchResult {
  ready: HostId[];
  missing: { host: HostId; error: TaskError }[];
}

/**
 * Brings an image to hosts ahead of its use. It spreads like a rumour: as many transfers at a time as there are hosts
 * that have it, and the ledger tells each new one where it is, so the repository gives it away about once. It changes
 * nothing but caches, so there is nothing to undo: what came too late is of use all the same, or leaves by its age.
 *
 * It does not throw for a host that could not get it: whoever asked decides what that means.
 */
export async function prefetchImage(order: PrefetchRequest, pace = 1): Promise<PrefetchResult> {
  const progress = new Progress();
  progress.setAttributes({ hosts: order.hosts, state: 'running' });
  progress.setDeadline(order.deadline);
  const outcome: PrefetchResult = { ready: [], missing: [] };
  const leftMs = Math.max(1, Date.parse(order.deadline) - Date.now());
  const late = () => failure('host-busy', `The image was not on all hosts before ${order.deadline}`);
  const report = () =>
    progress.setDetail('step', `**${outcome.ready.length} of ${order.hosts.length} hosts have it**, at ${isoNow()}`);
  try {
    await withTimeout(leftMs, late, () => distribute(order, pace, outcome, report));
  } catch (error) {
    if (CancellationScope.current().consideredCancelled) throw error;
    const done = new Set([...outcome.ready, ...outcome.missing.map(({ host }) => host)]);
    const rest = order.hosts.filter((host) => !done.has(host));
    outcome.missing.push(...rest.map((host) => ({ host, error: taskErrorOf(error) })));
  }
  progress.setAttributes({ state: outcome.missing.length === 0 ? 'succeeded' : 'failed' });
  return outcome;
}

async function distribute(order: PrefetchRequest, pace: number, outcome: PrefetchResult, report: () => void): Promise<void> {
  const ledger = onLedger(pace);
  let sources = 1;
  const fetch = async (host: HostId): Promise<void> => {
    // Looked at again: all who wait are woken by the same one.
    while (sources === 0) await condition(() => sources > 0);
    sources -= 1;
    try {
      const image = await ledger.issueImageRef(order.image, host);
      await onHost(host, pace, 'throw').ensureImage(image, order.pinnedUntil);
      await ledger.recordImageCached(host, order.image);
      outcome.ready.push(host);
      // Whoever gave it, and the one that has it now.
      sources += 2;
    } catch (error) {
      if (isCancellation(error)) throw error;
      outcome.missing.push({ host, error: taskErrorOf(error) });
      sources += 1;
    }
    report();
  };
  await allOrCancel([...new Set(order.hosts)].map((host) => () => fetch(host)));
}
