import { defineSearchAttributeKey, SearchAttributeType, type SearchAttributeUpdatePair } from '@temporalio/common';
import { setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import type { TimelineEntry } from '../../model/task.ts';

export const isoNow = (): string => new Date().toISOString();

/** Search attributes in Temporal's UI; see searchAttributeTypes in model/temporal.ts. */
export interface ProgressAttributes {
  owner?: string;
  state?: string;
  hosts?: string[];
  vms?: string[];
}

const owner = defineSearchAttributeKey('BerthOwner', SearchAttributeType.KEYWORD);
const state = defineSearchAttributeKey('BerthState', SearchAttributeType.KEYWORD);
const hosts = defineSearchAttributeKey('BerthHost', SearchAttributeType.KEYWORD_LIST);
const vms = defineSearchAttributeKey('BerthVm', SearchAttributeType.KEYWORD_LIST);

function pairsOf(attributes: ProgressAttributes): SearchAttributeUpdatePair[] {
  return [
    ...(attributes.owner === undefined ? [] : [{ key: owner, value: attributes.owner }]),
    ...(attributes.state === undefined ? [] : [{ key: state, value: attributes.state }]),
    ...(attributes.hosts === undefined ? [] : [{ key: hosts, value: boundedList(attributes.hosts) }]),
    ...(attributes.vms === undefined ? [] : [{ key: vms, value: boundedList(attributes.vms) }]),
  ];
}

/** Temporal terminates a workflow that sets an attribute of more than 2048 bytes (limit.searchAttributesSizeOfValue). */
const maxListBytes = 2000;

/** The first values of a list, as many as the server takes in JSON: a search by a later one does not find the workflow. */
function boundedList(values: string[]): string[] {
  let bytes = 2;
  return values.filter((value) => {
    bytes += value.length + 3;
    return bytes <= maxListBytes;
  });
}

/** A saga's progress: the timeline for its owner, the current details and the search attributes for operators. */
export class Progress {
  #timeline: TimelineEntry[] = [];
  #attributes = new Map<string, string>();
  #deadline: string | null = null;
  #details = new Map<string, string>();

  get timeline(): TimelineEntry[] {
    return this.#timeline.map((entry) => ({ ...entry }));
  }

  /** Empties the timeline and the details, for work that begins again on another host. */
  reset(): void {
    this.#timeline = [];
    this.#details.clear();
    this.#deadline = null;
  }

  /** The latest end of the work, shown in the details. RFC 3339. */
  setDeadline(deadline: string): void {
    this.#deadline = deadline;
  }

  /** Upserts the attributes that changed, in one command. */
  setAttributes(attributes: ProgressAttributes): void {
    const pairs = pairsOf(attributes).filter(({ key, value }) => this.#attributes.get(key.name) !== String(value));
    if (pairs.length === 0) return;
    for (const { key, value } of pairs) this.#attributes.set(key.name, String(value));
    upsertSearchAttributes(pairs);
  }

  /** Sets a line of the current details; null removes it. It is in no history. */
  setDetail(topic: string, line: string | null): void {
    if (line === null) this.#details.delete(topic);
    else this.#details.set(topic, line);
    const deadline = this.#deadline === null ? [] : [`ends by ${this.#deadline} at the latest`];
    setCurrentDetails([...this.#details.values(), ...deadline].join('\n\n'));
  }

  /** Enters a step in the timeline, and shows how many of its parts are done. */
  async trackStep<T>(step: string, parts: string[], act: (done: (part: string) => void) => Promise<T>): Promise<T> {
    const entry: TimelineEntry = { step, startedAt: isoNow(), endedAt: null };
    this.#timeline.push(entry);
    const open = new Set(parts);
    const show = () =>
      this.setDetail(
        'step',
        `**${step}** on ${[...open].join(', ') || 'no host'} since ${entry.startedAt}: ${parts.length - open.size} of ${parts.length} done`,
      );
    show();
    try {
      return await act((part) => {
        open.delete(part);
        show();
      });
    } finally {
      entry.endedAt = isoNow();
    }
  }

  /** Splits the last step in two, where the host measured how long the first part took. */
  splitStep(first: string, afterMs: number, second: string, detail?: string): void {
    const entry = this.#timeline.at(-1);
    if (entry?.endedAt == null) throw new Error('BUG: only a finished step can be split');
    const middle = Math.min(Date.parse(entry.startedAt) + afterMs, Date.parse(entry.endedAt));
    const at = new Date(middle).toISOString();
    this.#timeline.splice(
      -1,
      1,
      { step: first, startedAt: entry.startedAt, endedAt: at },
      { step: second, startedAt: at, endedAt: entry.endedAt, ...(detail === undefined ? {} : { detail }) },
    );
  }
}
