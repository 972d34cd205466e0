import { formatMicros } from '../../../model/books/money.ts';

/** Micro-units as the API has them, in units of the currency; null stays null. */
export function units(micros: string): string;
export function units(micros: string | null): string | null;
export function units(micros: string | null): string | null {
  return micros === null ? null : formatMicros(BigInt(micros));
}
