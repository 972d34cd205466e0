import { InvalidArgumentError } from 'commander';

/** For options that may be repeated. */
export function several(value: string, before: string[]): string[] {
  return [...before, value];
}

export function whole(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new InvalidArgumentError('expected a whole number');
  return Number(value);
}
