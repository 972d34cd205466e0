import type { LeaseTerm, PrefetchTarget } from '../../contracts/ledger-placement.ts';
import type { WaiterId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { startDetached } from '../durable/other-workflows.ts';
import { prefetchImage } from './prefetch-image.ts';

/**
 * Brings the image of a lease with a fixed start to the hosts on which it is planned, before that start, and pins it there
 * until the lease's end. The step `stageIn` fetches a missing image in any case, so this only saves time.
 */
export class ImagePrefetcher {
  readonly #id: WaiterId;
  readonly #pace: number;
  #requestedHosts = '';

  constructor(id: WaiterId, pace: number) {
    this.#id = id;
    this.#pace = pace;
  }

  /** Repeats a request when the plan has other hosts, or when one of them still lacks the image. */
  async request(target: PrefetchTarget | null, term: LeaseTerm | null): Promise<void> {
    if (target === null || term === null) return;
    const hosts = target.hosts.toSorted();
    const requestedHosts = hosts.join(',');
    if (this.#requestedHosts === requestedHosts && target.complete) return;
    this.#requestedHosts = requestedHosts;
    const request = { image: target.image, hosts, deadline: term.startAt, pinnedUntil: term.endAt };
    const workflow = workflowId.prefetch(target.image, this.#id);
    // A prefetch runs already, possibly to other hosts: then the next request finds the image missing.
    if ((await startDetached(prefetchImage, workflow, [request, this.#pace])) === null) this.#requestedHosts = '';
  }
}
