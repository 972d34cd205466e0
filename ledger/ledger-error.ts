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

/** The driver's error inside Prisma's: a known request error has it in its meta, a raw one as its cause. */
function driverCause(error: unknown): unknown {
  return property(property(property(error, 'meta'), 'driverAdapterError'), 'cause') ?? property(error, 'cause');
}

/** PostgreSQL's SQLSTATE of an error of Prisma; undefined when the database did not raise it. */
export function sqlState(error: unknown): string | undefined {
  const code = property(driverCause(error), 'originalCode');
  return typeof code === 'string' ? code : undefined;
}

/** The BerthError of a violated constraint of the ledger; undefined for any other error. */
export function ledgerError(error: unknown): BerthError | undefined {
  const code = codes[sqlState(error) ?? ''];
  if (code === undefined) return undefined;
  const message = property(driverCause(error), 'originalMessage');
  return new BerthError(code, typeof message === 'string' ? message : String(error), { cause: error });
}
