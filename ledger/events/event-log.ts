import type { Ledger } from '../client.ts';

/** What is kept of the events. */
export interface EventLog {
  /** Events after this number are kept. */
  floor: bigint;
  /** The newest number; the floor where there is none after it. */
  last: bigint;
  /** How long an event is kept after it was published; null: for ever. */
  retentionDays: number | null;
}

/** Without the newest number, which is looked up in every partition's index. */
export async function readEventFloor(ledger: Ledger): Promise<Omit<EventLog, 'last'>> {
  return ledger.eventLog.findUniqueOrThrow({ where: { row: 1 }, select: { floor: true, retentionDays: true } });
}

export async function readEventLog(ledger: Ledger): Promise<EventLog> {
  const rows = await ledger.$queryRaw<EventLog[]>`
    SELECT floor, GREATEST(floor, (SELECT max(seq) FROM "Event" WHERE seq > 0)) AS last, "retentionDays" FROM "EventLog"`;
  return rows[0]!;
}
