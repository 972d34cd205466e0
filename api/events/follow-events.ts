import { once } from 'node:events';
import type { Response } from 'express';
import type { Ledger } from '../../ledger/client.ts';
import { readNewEvents } from '../../ledger/events/feed.ts';
import { type EventRecord, readEvents } from '../../ledger/events/read.ts';
import { BerthError } from '../../model/errors.ts';
import type { Logger } from '../../model/log.ts';
import { repeatWhile } from '../repeat-while.ts';
import type { FollowerShares } from './follower-shares.ts';

/** What a follower waits for at most once an event is committed. */
const tickMs = 150;
/** A stream says so often that it is there, and how far it has read: proxies end a connection that is silent for a minute. */
const keepAliveMs = 15_000;
const streamPage = 200;

export interface EventsRequest {
  /** Whose events; null: every owner's. */
  owner: string | null;
  type: string | undefined;
  after: bigint | null;
  limit: number;
  /** Who follows, for its share. */
  follower: string;
}

type EventPage = Awaited<ReturnType<typeof readEvents>>;

export interface EventFollowers {
  /** A page as readEvents has it; where it is empty, the one that comes within so many ms. */
  waitForEvents(request: EventsRequest, waitMs: number, res: Response): Promise<EventPage>;
  /** Sends events as server-sent ones until the client goes. */
  stream(request: EventsRequest, show: (event: EventRecord) => unknown, res: Response): Promise<void>;
}

/** Followers of events in this process share one reader of new ones, which reads as long as there are any. */
export function openEventFollowers(ledger: Ledger, shares: FollowerShares, log: Logger): EventFollowers {
  const feed = readNewEvents(ledger);
  let followers = 0;
  const schedule = repeatWhile({
    isNeeded: () => followers > 0,
    act: () => feed.tick(),
    everyMs: tickMs,
    log,
    failure: 'events could not be read for their followers; they are read again soon',
  });

  async function following<T>(request: EventsRequest, res: Response, act: (gone: AbortSignal) => Promise<T>): Promise<T> {
    const leave = shares.enter(request.follower);
    const gone = new AbortController();
    const onClose = (): void => gone.abort();
    res.once('close', onClose);
    followers += 1;
    schedule();
    try {
      return await act(gone.signal);
    } finally {
      followers -= 1;
      res.off('close', onClose);
      leave();
    }
  }

  const passes =
    ({ owner, type }: EventsRequest) =>
    (event: EventRecord): boolean =>
      (owner === null || event.ownerId === owner) && (type === undefined || event.type === type);

  return {
    async waitForEvents(request, waitMs, res) {
      const page = await readEvents(ledger, request, request);
      if (page.events.length > 0 || waitMs === 0) return page;
      return following(request, res, async (gone) => {
        const endMs = performance.now() + waitMs;
        let { events, next } = page;
        while (events.length === 0 && !gone.aborted && performance.now() < endMs) {
          await feed.waitBeyond(next, endMs - performance.now(), gone);
          ({ events, next } = await feed.read(next, request.owner, passes(request), request.limit));
        }
        return { ...page, events, next };
      });
    },

    stream: (request, show, res) =>
      following(request, res, async (gone) => {
        // A cursor that has expired is refused before the stream begins.
        const first = await readEvents(ledger, request, { ...request, limit: streamPage });
        res.set({ 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-store', 'X-Accel-Buffering': 'no' });
        res.flushHeaders();
        const write = async (text: string): Promise<void> => {
          if (!res.write(text)) await once(res, 'drain', { signal: gone });
        };
        try {
          for (let { events, next } = first; !gone.aborted && res.req.method !== 'HEAD'; ) {
            for (const event of events)
              await write(`id: ${event.seq}\nevent: ${event.type}\ndata: ${JSON.stringify(show(event))}\n\n`);
            // Without data it is no event, and moves the client's Last-Event-ID.
            if (events.length === 0) await write(`id: ${next}\n\n`);
            if (feed.last <= next) await feed.waitBeyond(next, keepAliveMs, gone);
            ({ events, next } = await feed.read(next, request.owner, passes(request), streamPage));
          }
        } catch (error) {
          // A client that reads more slowly than events are removed comes again, and is told so.
          const isExpired = error instanceof BerthError && error.code === 'cursor-expired';
          if (!gone.aborted && !isExpired) throw error;
        }
        res.end();
      }),
  };
}
