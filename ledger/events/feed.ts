import type { Event } from '../../generated/prisma/client.ts';
import type { Ledger } from '../client.ts';
import { readEventLog } from './event-log.ts';
import { numberAllEvents } from './number-events.ts';
import { readEvents } from './read.ts';

/** What is kept in memory: readers that follow closely cost no query of their own. */
const keptEvents = 2000;
const keptChars = 16 * 2 ** 20;
const pageSize = 500;
/** Of a reader that is behind what is kept. */
const behindPageSize = 200;

interface Kept {
  event: Event;
  chars: number;
}

/** Events for one reader, and where it goes on: after the last of them, or after what is not for it. */
export interface FedEvents {
  events: Event[];
  next: bigint;
}

/**
 * The newest events, read once for all who follow them in this process. `tick` reads on, and has to be called again and again while
 * anybody follows. Events of a reader's cursor that are not in memory are read from the ledger.
 */
export class EventFeed {
  readonly #ledger: Ledger;
  /** All events after #from and up to #last, in their order. */
  #kept: Kept[] = [];
  #chars = 0;
  #from: bigint | null = null;
  #last = 0n;
  #waiting = new Set<() => void>();
  #ticking: Promise<void> | null = null;

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
  }

  /** The newest number that was read. */
  get last(): bigint {
    return this.#last;
  }

  /** Numbers what has committed, and reads what is new. Of several calls at once each has what had committed when it was made. */
  async tick(): Promise<void> {
    const before = this.#ticking;
    const mine = (before ?? Promise.resolve()).then(
      () => this.#read(),
      () => this.#read(),
    );
    const settled = mine.finally(() => {
      if (this.#ticking === settled) this.#ticking = null;
    });
    this.#ticking = settled;
    await settled;
  }

  async #read(): Promise<void> {
    await numberAllEvents(this.#ledger);
    const { last } = await readEventLog(this.#ledger);
    // A feed that nobody has followed for a while begins anew: what is in between is read by those who ask for it.
    if (this.#from === null || last - this.#last > BigInt(keptEvents)) this.#begin(last);
    while (this.#last < last) {
      const events = await this.#ledger.event.findMany({
        where: { seq: { gt: this.#last, lte: last } },
        orderBy: { seq: 'asc' },
        take: pageSize,
      });
      for (const event of events) this.#keep(event);
      this.#last = events.length < pageSize ? last : events.at(-1)!.seq;
    }
    for (const wake of [...this.#waiting]) wake();
  }

  #begin(last: bigint): void {
    this.#kept = [];
    this.#chars = 0;
    this.#from = last;
    this.#last = last;
  }

  #keep(event: Event): void {
    const chars = JSON.stringify(event.data).length;
    this.#kept.push({ event, chars });
    this.#chars += chars;
    while (this.#kept.length > keptEvents || (this.#chars > keptChars && this.#kept.length > 1)) {
      const first = this.#kept.shift()!;
      this.#chars -= first.chars;
      this.#from = first.event.seq;
    }
  }

  /** The owners of the events after a number that are in memory. */
  ownersSince(seq: bigint): Set<string> {
    const owners = new Set<string>();
    for (let index = this.#kept.length - 1; index >= 0; index -= 1) {
      const { event } = this.#kept[index]!;
      if (event.seq <= seq) break;
      owners.add(event.ownerId);
    }
    return owners;
  }

  /**
   * Events after a cursor that pass, oldest first, as far as they were read.
   * @param owner whose events may pass; null: every owner's
   * @throws cursor-expired
   */
  async read(cursor: bigint, owner: string | null, passes: (event: Event) => boolean, limit: number): Promise<FedEvents> {
    if (this.#from !== null && cursor >= this.#from) return this.#readKept(cursor, passes, limit);
    const page = await readEvents(this.#ledger, { owner }, { after: cursor, limit: behindPageSize });
    const events = page.events.filter(passes).slice(0, limit);
    return { events, next: events.length === limit ? events.at(-1)!.seq : page.next };
  }

  #readKept(cursor: bigint, passes: (event: Event) => boolean, limit: number): FedEvents {
    const events: Event[] = [];
    for (let index = this.#after(cursor); index < this.#kept.length; index += 1) {
      const { event } = this.#kept[index]!;
      if (!passes(event)) continue;
      events.push(event);
      if (events.length === limit) return { events, next: event.seq };
    }
    return { events, next: cursor > this.#last ? cursor : this.#last };
  }

  /** The index of the first event in memory after a cursor: numbers grow. */
  #after(cursor: bigint): number {
    let [low, high] = [0, this.#kept.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#kept[middle]!.event.seq <= cursor) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Resolves when there are events after a number, after so many ms, or when the signal is aborted. */
  async waitBeyond(seq: bigint, ms: number, signal: AbortSignal): Promise<void> {
    if (this.#last > seq || signal.aborted || ms <= 0) return;
    await new Promise<void>((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        this.#waiting.delete(check);
        resolve();
      };
      const check = (): void => {
        if (this.#last > seq) end();
      };
      const timer = setTimeout(end, ms);
      signal.addEventListener('abort', end, { once: true });
      this.#waiting.add(check);
    });
  }
}

/** The newest events of a ledger, for followers: empty until the first `tick`. */
export const readNewEvents = (ledger: Ledger): EventFeed => new EventFeed(ledger);
