import { BerthError, type ErrorCode } from '../model/errors.ts';

/** SQLSTATEs that the ledger's own triggers raise; see the first migration. */
const codes: Record<string, ErrorCode> = {
  BE001: 'conflict',
  BE002: 'no-capacity',
  BE003: 'quota-exceeded',
  BE004: 'stale-generation',
  BE005: 'internal',
  BE006: 'in-use',
  BE007: 'conflict',
};

function property(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

/** The driver's own error inside what Prisma throws: a known request error keeps it in meta, a raw one is it. */
function driverCause(error: unknown): unknown {
  return property(property(property(error, 'meta'), 'driverAdapterError'), 'cause') ?? property(error, 'cause');
}

/** PostgreSQL's SQLSTATE of what Prisma threw; undefined when the error is not the database's. */
export function sqlState(error: unknown): string | undefined {
  const code = property(driverCause(error), 'originalCode');
  return typeof code === 'string' ? code : undefined;
}

/** A constraint of the ledger, as the error that callers know; undefined when it is something else. */
export function ledgerError(error: unknown): BerthError | undefined {
  const code = codes[sqlState(error) ?? ''];
  if (code === undefined) return undefined;
  const message = property(driverCause(error), 'originalMessage');
  return new BerthError(code, typeof message === 'string' ? message : String(error), { cause: error });
}
