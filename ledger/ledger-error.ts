import { BerthError, type ErrorCode } from '../model/errors.ts';

/** SQLSTATEs that the ledger's own triggers raise; see the first migration, and that of the books. */
const codes: Record<string, ErrorCode> = {
  BE001: 'conflict',
  BE002: 'no-capacity',
  BE003: 'quota-exceeded',
  BE004: 'stale-generation',
  BE005: 'internal',
  BE006: 'in-use',
  BE007: 'conflict',
  BE008: 'insufficient-funds',
  BE009: 'amount-out-of-bounds',
  BE010: 'not-found',
};

/**
 * Classes of SQLSTATEs that depend on the values alone: 22, data exception, such as a number out of range; 23, a violated
 * constraint. The same statement with the same values fails again, so a repetition only keeps a worker busy.
 */
const permanentClasses: readonly string[] = ['22', '23'];

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

/** A statement has waited for a lock as long as it may. */
export const isLockTimeout = (error: unknown): boolean => sqlState(error) === '55P03';

/** The BerthError of a violated constraint or of a value that the ledger can't hold; undefined for any other error. */
export function ledgerError(error: unknown): BerthError | undefined {
  const state = sqlState(error) ?? '';
  const code = codes[state] ?? (permanentClasses.includes(state.slice(0, 2)) ? 'ledger-refused' : undefined);
  if (code === undefined) return undefined;
  const message = property(driverCause(error), 'originalMessage');
  return new BerthError(code, typeof message === 'string' ? message : String(error), { cause: error });
}
