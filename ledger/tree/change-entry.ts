import type { Ledger } from '../client.ts';
import { writtenRow } from './accept-file.ts';
import type { EntryRecord } from './entry-record.ts';
import { type EntryTarget, onEntry } from './on-entry.ts';

/** What is changed of an entry; what is undefined stays. */
export interface EntryChange {
  /** A value of null removes its key. */
  metadata?: Record<string, string | null> | undefined;
  expiresAt?: Date | null | undefined;
}

/** Throws not-found and precondition-failed. @param refuse throws where the whole metadata would be too much */
export async function changeEntry(
  ledger: Ledger,
  target: EntryTarget,
  { metadata, expiresAt }: EntryChange,
  refuse: (metadata: Record<string, string>) => void,
): Promise<EntryRecord> {
  return onEntry(ledger, target, async (tx, entry) => {
    const { owner, path } = target;
    const pairs = Object.entries({ ...entry.metadata, ...metadata }).filter((pair): pair is [string, string] => pair[1] !== null);
    const whole = Object.fromEntries(pairs);
    refuse(whole);
    const data = { metadata: whole, ...(expiresAt !== undefined && { expiresAt }) };
    await tx.treeEntry.update({ where: { ownerId_path: { ownerId: owner, path } }, data });
    return writtenRow(tx, owner, path);
  });
}
