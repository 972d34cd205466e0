import type { z } from 'zod';
import { BerthError, type FieldError } from '../../model/errors.ts';
import { redactBegin } from '../../model/input/redact-url.ts';

const shownChars = 80;
/** Of a value that is shown; a caller may send one of megabytes, or many. */
const readChars = 1024;
/** A caller that has made one mistake a thousand times learns no more from a thousand answers. */
const shownErrors = 50;

function shorten(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  const text = redactBegin(textOf(value), readChars);
  return text.length > shownChars ? `${text.slice(0, shownChars)}…` : text;
}

/** The begin of its JSON, where it is a long text. */
function textOf(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, readChars + 1));
  return JSON.stringify(value) ?? typeof value;
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

/** A message may repeat what the caller has sent. */
const messageChars = 500;

function expectation(whole: string): string {
  // The pattern takes the square of its text's length.
  const message = whole.slice(0, messageChars);
  const match = /expected (.*?)(?:, received .*)?$/.exec(message);
  return match ? `expected ${match[1]}` : message;
}

function describe(part: InputPart, input: unknown, issue: z.core.$ZodIssue): FieldError[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.slice(0, shownErrors + 1).map((key) => ({
      pointer: pointer(part, [...issue.path, key]),
      detail: `found ${shorten(valueAt(input, [...issue.path, key]))}; expected no field of this name`,
    }));
  }
  const inner = issue.code === 'invalid_key' ? (issue.issues[0]?.message ?? issue.message) : issue.message;
  const found = issue.code === 'invalid_key' ? issue.path.at(-1) : valueAt(input, issue.path);
  return [{ pointer: pointer(part, issue.path), detail: `found ${shorten(found)}; ${expectation(inner)}` }];
}

/** The first errors; where there are more, the last one says so. */
function firstErrors(part: InputPart, input: unknown, issues: readonly z.core.$ZodIssue[]): FieldError[] {
  const fields: FieldError[] = [];
  for (const issue of issues) {
    fields.push(...describe(part, input, issue));
    if (fields.length > shownErrors)
      return [...fields.slice(0, shownErrors - 1), { pointer: pointer(part, []), detail: 'there are more errors' }];
  }
  return fields;
}

/** The parsed value; `bad-request` with each field, what was found and what was expected. */
export function validate<S extends z.ZodType>(schema: S, part: InputPart, input: unknown): z.output<S> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw new BerthError('bad-request', `The ${part} is not as this route expects it; see errors`, {
    fields: firstErrors(part, input, parsed.error.issues),
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
