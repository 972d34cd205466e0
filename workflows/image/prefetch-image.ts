import { CancellationScope, condition, isCancellation } from '@temporalio/workflow';
import type { HostId, ImageId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { allOrCancel, withTimeout } from '../durable/cancellation-scopes.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { withFreshUrls } from '../durable/fresh-urls.ts';
import { isoNow, Progress } from '../durable/progress.ts';

export interface PrefetchRequest {
  image: ImageId;
  hosts: HostId[];
  /** RFC 3339. Transfers that have not ended by then are cancelled. */
  deadline: string;
  /** RFC 3339: until then the hosts' caches don't evict it. */
  pinnedUntil: string;
}

export interface PrefetchResult {
  ready: HostId[];
  missing: { host: HostId; error: TaskError }[];
}

/**
 * Brings an image to hosts before its use. At any time there are as many transfers as hosts that have it, and the ledger
 * gives each new one its peers, so the repository sends it about once. It changes only caches, so there is nothing to undo.
 * A host that could not fetch the image is in the result; it is no failure of the workflow.
 */
export async function prefetchImage(request: PrefetchRequest, pace = 1): Promise<PrefetchResult> {
  const progress = new Progress();
  progress.setAttributes({ hosts: request.hosts, state: 'running' });
  progress.setDeadline(request.deadline);
  const outcome: PrefetchResult = { ready: [], missing: [] };
  const leftMs = Math.max(1, Date.parse(request.deadline) - Date.now());
  const expired = () => failure('host-busy', `The image was not on all hosts before ${request.deadline}`);
  const showProgress = () =>
    progress.setDetail('step', `**${outcome.ready.length} of ${request.hosts.length} hosts have it**, at ${isoNow()}`);
  try {
    await withTimeout(leftMs, expired, () => distribute(request, pace, outcome, showProgress));
  } catch (error) {
    if (CancellationScope.current().consideredCancelled) throw error;
    const attempted = new Set([...outcome.ready, ...outcome.missing.map(({ host }) => host)]);
    const rest = request.hosts.filter((host) => !attempted.has(host));
    outcome.missing.push(...rest.map((host) => ({ host, error: taskErrorOf(error) })));
  }
  progress.setAttributes({ state: outcome.missing.length === 0 ? 'succeeded' : 'failed' });
  return outcome;
}

async function distribute(
  request: PrefetchRequest,
  pace: number,
  outcome: PrefetchResult,
  showProgress: () => void,
): Promise<void> {
  const ledger = onLedger(pace);
  let sources = 1;
  const fetch = async (host: HostId): Promise<void> => {
    // Checked again: one change wakes all that wait.
    while (sources === 0) await condition(() => sources > 0);
    sources -= 1;
    try {
      await withFreshUrls(
        () => ledger.issueImageRef(request.image, host),
        (image) => onHost(host, pace, 'throw').ensureImage(image, request.pinnedUntil),
      );
      await ledger.recordImageCached(host, request.image);
      outcome.ready.push(host);
      // The host that sent it, and the one that has it now.
      sources += 2;
    } catch (error) {
      if (isCancellation(error)) throw error;
      outcome.missing.push({ host, error: taskErrorOf(error) });
      sources += 1;
    }
    showProgress();
  };
  await allOrCancel([...new Set(request.hosts)].map((host) => () => fetch(host)));
}
