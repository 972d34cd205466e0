import fc from 'fast-check';
import { expect, it } from 'vitest';
import { specForSaga } from '../../../../ledger/tasks/load-task.ts';
import { maxOrderBytes, orderBytes } from '../../../../model/input/order-size.ts';
import { TaskOrder } from '../../../../model/input/task-order.ts';
import { maxPayloadBytes } from '../../../../workers/payload-budget.ts';

/** The largest body that the API reads. */
const maxBodyBytes = 2 ** 20;
const bytesOf = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));

/** Few, or as many as may be. */
const upTo = (most: number) =>
  fc.oneof(fc.integer({ min: 1, max: Math.min(12, most) }), fc.integer({ min: 1, max: most }), fc.constant(most));

/** Texts of characters that take one byte as they came, and two, four or six as JSON. */
const text = (max: number) =>
  fc
    .tuple(fc.constantFrom('x', '"', '\\*', 'ü', '\u{1f600}', '\u0001', '\u007f'), upTo(max))
    .map(([unit, count]) => unit.repeat(count));

const list = <T>(most: number, one: fc.Arbitrary<(n: number) => T>) =>
  fc.tuple(upTo(most), one).map(([count, of]) => Array.from({ length: count }, (_, n) => of(n)));

const input = fc.tuple(text(250), text(1900), fc.boolean()).map(([path, rest, isUrl]) => (n: number) => ({
  path: `in/${n}/${path}`,
  ...(isUrl ? { url: `https://example.org/${rest}` } : { file: `file_${n}` }),
}));

const order = fc.record(
  {
    image: fc.constant('debian-12'),
    command: fc
      .tuple(
        text(100),
        list(
          256,
          text(250).map((word) => () => word),
        ),
      )
      .map(([program, rest]) => [program, ...rest]),
    env: list(
      128,
      text(250).map((value) => (n: number) => [`V${n}`, value] as const),
    ).map((entries) => Object.fromEntries(entries)),
    inputs: list(1000, input),
    outputs: list(
      100,
      text(240).map((part) => (n: number) => `${n}/${part}/${part}`),
    ),
    nodes: upTo(64),
  },
  { requiredKeys: ['image', 'command'] },
);

it('of a body that the API reads, what is accepted is within the budgets of hosts and of Temporal (fast-check)', () => {
  const tally = { accepted: 0, refused: 0 };
  fc.assert(
    fc.property(order, (body) => {
      fc.pre(bytesOf(body) <= maxBodyBytes);
      const { success, data } = TaskOrder.safeParse(body);
      tally[success ? 'accepted' : 'refused'] += 1;
      if (!success) return;
      const { command, env, inputs, outputs, nodes } = data;
      expect(nodes * bytesOf({ command, env, inputs, outputs })).toBeLessThanOrEqual(maxOrderBytes);
      expect(orderBytes(data)).toBeLessThanOrEqual(maxOrderBytes);
      // Defaults alone are added to what was sent.
      expect(bytesOf(data)).toBeLessThan(bytesOf(body) + 1024 + 32 * inputs.length);
      expect(bytesOf(specForSaga(data))).toBeLessThan(maxPayloadBytes);
    }),
    { numRuns: 400 },
  );
  expect(Math.min(tally.accepted, tally.refused)).toBeGreaterThan(0);
});
