import type { Event } from '../../generated/prisma/client.ts';
import type { Ledger } from '../client.ts';
import { numberEvents } from './number-events.ts';

export type EventRecord = Event;

/**
 * Events after a sequence number, oldest first. Numbers what has committed until now before that: a reader sees what it has
 * written itself.
 * @param filter `owner`: whose; null: every owner's
 */
export async function readEvents(
  ledger: Ledger,
  filter: { owner: string | null; type?: string | undefined },
  { after, limit }: { after: bigint; limit: number },
): Promise<EventRecord[]> {
  const { owner, type } = filter;
  while (await numberEvents(ledger));
  return ledger.event.findMany({
    where: {
      seq: { gt: after },
      ...(owner !== null && { ownerId: owner }),
      ...(type !== undefined && { type }),
    },
    orderBy: { seq: 'asc' },
    take: limit,
  });
}
