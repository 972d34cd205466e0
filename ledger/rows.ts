import { BerthError } from '../model/errors.ts';

/**
 * The row of a query by id. Throws not-found.
 * @param what the missing thing with its id: "task task_…"
 */
export function oneOrNotFound<T>(rows: readonly T[], what: string): T {
  const row = rows[0];
  if (row === undefined) throw new BerthError('not-found', `There is no ${what} in the ledger`);
  return row;
}
