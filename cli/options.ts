import { readFile } from 'node:fs/promises';
import { InvalidArgumentError } from 'commander';
import { UsageError } from './client.ts';

/** Argument parser of options that may be repeated. */
export function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

/** Argument parser: a whole number from 0 on. */
export function wholeNumber(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new InvalidArgumentError('expected a whole number');
  return Number(value);
}

/** Argument parser: a whole number from 1 on. */
export function positiveNumber(value: string): number {
  const number = wholeNumber(value);
  if (number === 0) throw new InvalidArgumentError('expected a whole number above 0');
  return number;
}

/** Choices of an option that is a boolean field of the API. */
export const yesNo = ['yes', 'no'];

/** Answers of such options as the API's fields. */
export function booleans(answers: Record<string, string | undefined>): Record<string, boolean> {
  return Object.fromEntries(Object.entries(answers).map(([name, answer]) => [name, answer === 'yes']));
}

/** `name=value`; a value may have further equals signs. */
export function splitPair(text: string, option: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new UsageError(`${option} ${JSON.stringify(text)} is not name=value`);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** Argument parser: `group` or `group:preferred`, of a rule that may be repeated. */
export function collectGroup(text: string, before: object[] = []): object[] {
  const [group, strength, ...rest] = text.split(':');
  if (rest.length > 0) throw new InvalidArgumentError('expected a group, with ":preferred" where it need not be kept to');
  return [...before, strength === undefined ? { group } : { group, strength }];
}

/** Argument parser: `label=value,value`, `label!=value`, and either with `:preferred`; may be repeated. */
export function collectLabelRule(text: string, before: object[] = []): object[] {
  const match = /^([^=!:]+)(!?=)([^:]+)(?::(.+))?$/.exec(text);
  if (match === null) throw new InvalidArgumentError('expected label=value,value or label!=value');
  const [, label, operator, values, strength] = match;
  const rule = { label, operator: operator === '=' ? 'in' : 'notIn', values: values!.split(',') };
  return [...before, strength === undefined ? rule : { ...rule, strength }];
}

/** A JSON object from a file; `-` is the standard input. */
export async function readJson(path: string): Promise<object> {
  const text = await readFile(path === '-' ? '/dev/stdin' : path, 'utf8');
  try {
    return JSON.parse(text) as object;
  } catch (error) {
    throw new UsageError(`${path} is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Only the fields that were given: the API has the defaults, and decides what is valid. */
export function given(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

/** Undefined for an empty list or object, so that `given` leaves it out. */
export function unlessEmpty<T extends object>(fields: T): T | undefined {
  return Object.keys(fields).length > 0 ? fields : undefined;
}
