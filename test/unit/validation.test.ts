import { expect, test } from 'vitest';
import { z } from 'zod';
import { validate } from '../../api/http/validation.ts';
import { BerthError } from '../../model/errors.ts';

test('an error whose message repeats a text of megabytes is told in its first part, in no time', () => {
  const schema = z
    .string()
    .superRefine((text, context) => context.addIssue({ code: 'custom', message: `${text}: expected another` }));
  // The pattern that words an error would take some minutes for this one.
  const text = `expected ${', received '.repeat(180_000)}\n`;
  try {
    validate(schema, 'body', text);
    expect.unreachable();
  } catch (error) {
    if (!(error instanceof BerthError)) throw error;
    expect(error.fields).toHaveLength(1);
    expect(error.fields[0]!.detail.length).toBeLessThan(700);
  }
});

test('an error with a short message is told by what was found and what was expected', () => {
  expect(() => validate(z.object({ n: z.int() }), 'body', { n: 'x' })).toThrow(
    expect.objectContaining({ fields: [{ pointer: '/n', detail: 'found "x"; expected number' }] }),
  );
});
