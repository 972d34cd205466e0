import { type ContentCondition, refuseUnmet } from '../../model/tree/condition.ts';
import type { Ledger } from '../client.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { digestOf, type EntryRecord } from './entry-record.ts';
import { lockTree, refuseTaskPath } from './lock-tree.ts';
import { findRow, noEntry } from './read-tree.ts';

/** An entry that is to be changed, if its content meets the condition. */
export interface EntryTarget {
  owner: string;
  path: string;
  condition: ContentCondition;
}

/** Acts on an entry under the lock of its tree. Throws not-found, precondition-failed, and conflict for outputs of tasks. */
export async function onEntry<T>(
  ledger: Ledger,
  { owner, path, condition }: EntryTarget,
  act: (tx: Transaction, entry: EntryRecord) => Promise<T>,
): Promise<T> {
  refuseTaskPath(path);
  const work = async (tx: Transaction): Promise<T> => {
    await lockTree(tx, owner);
    const entry = await findRow(tx, owner, path);
    if (entry === null) throw noEntry(path);
    refuseUnmet(condition, digestOf(entry));
    return act(tx, entry);
  };
  return inTransaction(ledger, work, requestLimits);
}
