/**
 * Money is counted in micro-units: millionths of a currency's unit, as a bigint. In JSON they are decimal strings, since a
 * JSON number is exact only to 2^53 in most clients.
 */

export const accountKinds = ['owner', 'provider', 'site', 'hold', 'tax'] as const;
export type AccountKind = (typeof accountKinds)[number];

export const transferKinds = ['adjustment', 'hold', 'capture', 'release', 'usage'] as const;
export type TransferKind = (typeof transferKinds)[number];

/** The largest amount of one posting: a thousand million units. The same bounds are constraints of the ledger. */
export const maxAmountMicros = 10n ** 15n;
/** The largest balance of an account with a lower limit, and the lowest limit. */
export const maxBalanceMicros = 10n ** 18n;
/** Accounts that one transfer touches. */
export const maxPostings = 64;

const microsPerUnit = 1_000_000n;

/** `12.5`, `-0.000001`: units with as many decimals as it needs. */
export function formatMicros(micros: bigint): string {
  const magnitude = micros < 0n ? -micros : micros;
  const decimals = String(magnitude % microsPerUnit)
    .padStart(6, '0')
    .replace(/0+$/, '');
  return `${micros < 0n ? '-' : ''}${magnitude / microsPerUnit}${decimals === '' ? '' : `.${decimals}`}`;
}

/** Micro-units of a decimal number of units; null for a text that is none, or has more than six decimals. */
export function parseUnits(text: string): bigint | null {
  const match = /^([+-]?)(\d{1,13})(?:\.(\d{1,6}))?$/.exec(text);
  if (match === null) return null;
  const [, sign, units = '', decimals = ''] = match;
  const magnitude = BigInt(units) * microsPerUnit + BigInt(decimals.padEnd(6, '0'));
  return sign === '-' ? -magnitude : magnitude;
}
