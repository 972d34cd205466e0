import type { z } from 'zod';
import { BerthError, type FieldError } from '../../model/errors.ts';
import { redactUrls } from '../../model/input/redact-url.ts';

const shownChars = 80;

function shorten(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = redactUrls(JSON.stringify(value) ?? typeof value);
  return text.length > shownChars ? `${text.slice(0, shownChars)}…` : text;
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let value = root;
  for (const part of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = Object.hasOwn(value, part) ? Reflect.get(value, part) : undefined;
  }
  return value;
}

/** A field's name is a JSON pointer (RFC 6901) into the body, or `query.x`, `path.x`, `header.x` outside of it. */
export type InputPart = 'body' | 'query' | 'path' | 'header';

function pointer(part: InputPart, path: readonly PropertyKey[]): string {
  if (part !== 'body') return [part, ...path.map(String)].join('.');
  return path.map((key) => `/${String(key).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

function expectation(message: string): string {
  const match = /expected (.*?)(?:, received .*)?$/.exec(message);
  return match ? `expected ${match[1]}` : message;
}

function describe(part: InputPart, input: unknown, issue: z.core.$ZodIssue): FieldError[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      pointer: pointer(part, [...issue.path, key]),
      detail: `found ${shorten(valueAt(input, [...issue.path, key]))}; expected no field of this name`,
    }));
  }
  const inner = issue.code === 'invalid_key' ? (issue.issues[0]?.message ?? issue.message) : issue.message;
  const found = issue.code === 'invalid_key' ? issue.path.at(-1) : valueAt(input, issue.path);
  return [{ pointer: pointer(part, issue.path), detail: `found ${shorten(found)}; ${expectation(inner)}` }];
}

/** The parsed value; `bad-request` with each field, what was found and what was expected. */
export function validate<S extends z.ZodType>(schema: S, part: InputPart, input: unknown): z.output<S> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw new BerthError('bad-request', `The ${part} is not as this route expects it; see errors`, {
    fields: parsed.error.issues.flatMap((issue) => describe(part, input, issue)),
  });
}

/** PostgreSQL stores neither NUL nor half of a surrogate pair, wherever in the input they are. */
export function refuseUnstorable(part: InputPart, input: unknown, path: readonly PropertyKey[] = []): void {
  if (typeof input === 'string') {
    if (input.isWellFormed() && !input.includes('\u0000')) return;
    throw new BerthError('bad-request', 'A text holds a NUL character or half of a surrogate pair', {
      fields: [{ pointer: pointer(part, path), detail: `found ${shorten(input)}; expected Unicode text without NUL` }],
    });
  }
  if (typeof input !== 'object' || input === null) return;
  for (const [key, value] of Object.entries(input)) {
    refuseUnstorable(part, key, [...path, key]);
    refuseUnstorable(part, value, [...path, key]);
  }
}
