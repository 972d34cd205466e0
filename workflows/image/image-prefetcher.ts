import { startChild } from '@temporalio/workflow';
import type { LeaseTerm, PrefetchTarget } from '../../contracts/ledger-placement.ts';
import type { WaiterId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { prefetchImage } from './prefetch-image.ts';

/**
 * Has a promised lease's image brought to the hosts on which it is planned, and kept there until its end, while it waits
 * for its start. At its start the image is fetched in any case, so nothing but time depends on this.
 */
export class ImagePrefetcher {
  readonly #id: WaiterId;
  readonly #pace: number;
  #requestedHosts = '';

  constructor(id: WaiterId, pace: number) {
    this.#id = id;
    this.#pace = pace;
  }

  /** Again when the plan has other hosts, or when one of them lacks the image although it was asked for. */
  async request(target: PrefetchTarget | null, term: LeaseTerm | null): Promise<void> {
    if (target === null || term === null) return;
    const hosts = target.hosts.toSorted();
    const requestedHosts = hosts.join(',');
    if (this.#requestedHosts === requestedHosts && target.complete) return;
    this.#requestedHosts = requestedHosts;
    const order = { image: target.image, hosts, deadline: term.startAt, pinnedUntil: term.endAt };
    const workflow = workflowId.prefetch(target.image, this.#id);
    const started = await startIfAbsent(
      startChild(prefetchImage, { ...detachedChild, workflowId: workflow, args: [order, this.#pace] }),
    );
    // It is being brought; if to other hosts, the next look finds that it lacks there.
    if (started === null) this.#requestedHosts = '';
  }
}
