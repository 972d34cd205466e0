import { startChild } from '@temporalio/workflow';
import type { LeaseTerm, Prestage } from '../activities/ledger/contract.ts';
import type { WaiterId } from '../model/ids.ts';
import { workflowId } from '../model/temporal.ts';
import { ownWay, unlessThere } from './own-way.ts';
import { prestage } from './prestage.ts';

/**
 * Has a promised lease's image brought to the hosts on which it is planned, and kept there until its end, while it waits
 * for its start. At its start the image is fetched in any case, so nothing but time depends on this.
 */
export class Prestaging {
  readonly #id: WaiterId;
  readonly #pace: number;
  #asked = '';

  constructor(id: WaiterId, pace: number) {
    this.#id = id;
    this.#pace = pace;
  }

  /** Again when the plan has other hosts, or when one of them lacks the image although it was asked for. */
  async want(wanted: Prestage | null, term: LeaseTerm | null): Promise<void> {
    if (wanted === null || term === null) return;
    const hosts = wanted.hosts.toSorted();
    const asked = hosts.join(',');
    if (this.#asked === asked && wanted.complete) return;
    this.#asked = asked;
    const order = { image: wanted.image, hosts, before: term.startAt, keepUntil: term.endAt };
    const workflow = workflowId.prestage(wanted.image, this.#id);
    const started = await unlessThere(startChild(prestage, { ...ownWay, workflowId: workflow, args: [order, this.#pace] }));
    // It is being brought; if to other hosts, the next look finds that it lacks there.
    if (started === null) this.#asked = '';
  }
}
