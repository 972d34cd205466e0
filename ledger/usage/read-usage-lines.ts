import { lastRecordOf, type UsageLine, usageEventTypes, usageLines } from '../../model/money/usage-lines.ts';
import type { Ledger } from '../client.ts';
import { readEvents } from '../events/read.ts';

interface UsagePage {
  lines: UsageLine[];
  /** The cursor of the next call. */
  next: bigint;
  /** There may be more at once. */
  more: boolean;
}

/**
 * Usage in the order in which it was told, from a cursor of events: read to its end each moment is in one line. What has ended is told by
 * hourly events to its end, or by the event of its end alone.
 * @param owner whose; null: every owner's
 * @param limit of events; each has a line for each VM and provider
 * @throws cursor-expired
 */
export async function readUsageLines(
  ledger: Ledger,
  owner: string | null,
  { after, limit }: { after: bigint | null; limit: number },
): Promise<UsagePage> {
  const { events, next } = await readEvents(ledger, { owner, types: usageEventTypes }, { after, limit });
  const last = events.flatMap((event) => lastRecordOf(event) ?? []);
  const found = last.length === 0 ? [] : await ledger.eventId.findMany({ where: { id: { in: last } }, select: { id: true } });
  const recorded = new Set(found.map(({ id }) => id));
  const lines = events.flatMap((event) => usageLines(event, recorded.has(lastRecordOf(event) ?? '')));
  return { lines, next, more: events.length === limit };
}
