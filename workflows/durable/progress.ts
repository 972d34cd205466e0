import { defineSearchAttributeKey, SearchAttributeType, type SearchAttributeUpdatePair } from '@temporalio/common';
import { setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import type { TimelineEntry } from '../../model/task.ts';

export const isoNow = (): string => new Date().toISOString();

/** What operators search for in Temporal's UI; see searchAttributeTypes in model/temporal.ts. */
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
    ...(attributes.hosts === undefined ? [] : [{ key: hosts, value: attributes.hosts }]),
    ...(attributes.vms === undefined ? [] : [{ key: vms, value: attributes.vms }]),
  ];
}

/** Where a saga stands, for outsiders: the timeline that its owner sees, the text and the attributes that operators see. */
export class Progress {
  #timeline: TimelineEntry[] = [];
  #attributes = new Map<string, string>();
  #deadline: string | null = null;
  #details = new Map<string, string>();

  get timeline(): TimelineEntry[] {
    return this.#timeline.map((entry) => ({ ...entry }));
  }

  /** Starts anew, for work that begins again elsewhere. */
  reset(): void {
    this.#timeline = [];
    this.#details.clear();
    this.#deadline = null;
  }

  /** The moment at which the work ends at the latest: the ETA that can be promised. */
  setDeadline(deadline: string): void {
    this.#deadline = deadline;
  }

  /** Upserts what changed, in one command. */
  setAttributes(attributes: ProgressAttributes): void {
    const pairs = pairsOf(attributes).filter(({ key, value }) => this.#attributes.get(key.name) !== String(value));
    if (pairs.length === 0) return;
    for (const { key, value } of pairs) this.#attributes.set(key.name, String(value));
    upsertSearchAttributes(pairs);
  }

  /** A line of the current details; null takes it back. Costs nothing: it is in no history. */
  setDetail(topic: string, line: string | null): void {
    if (line === null) this.#details.delete(topic);
    else this.#details.set(topic, line);
    const due = this.#deadline === null ? [] : [`ends by ${this.#deadline} at the latest`];
    setCurrentDetails([...this.#details.values(), ...due].join('\n\n'));
  }

  /** Records a step's time in the timeline, and says how many of its parts are done. */
  async trackStep<T>(step: string, parts: string[], act: (done: (part: string) => void) => Promise<T>): Promise<T> {
    const entry: TimelineEntry = { step, startedAt: isoNow(), endedAt: null };
    this.#timeline.push(entry);
    const open = new Set(parts);
    const tell = () =>
      this.setDetail(
        'step',
        `**${step}** on ${[...open].join(', ') || 'no host'} since ${entry.startedAt}: ${parts.length - open.size} of ${parts.length} done`,
      );
    tell();
    try {
      return await act((part) => {
        open.delete(part);
        tell();
      });
    } finally {
      entry.endedAt = isoNow();
    }
  }

  /** Splits the last step where its actor says that its first part ended. */
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
