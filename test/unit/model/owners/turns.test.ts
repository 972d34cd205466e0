import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Turns } from '../../../../model/owners/turns.ts';

const never = new AbortController().signal;

/** A lane whose steps end when they are told to; `working` has those at work, in the order of their starts. */
function trackedLane(limits: { total: number; perOwner: number }) {
  const lane = new Turns(limits);
  const working: string[] = [];
  const ends = new Map<string, () => void>();
  const start = (owner: string, name = owner, signal = never) =>
    lane.run(owner, signal, async () => {
      working.push(name);
      await new Promise<void>((resolve) => ends.set(name, resolve));
      working.splice(working.indexOf(name), 1);
    });
  const end = async (name: string) => {
    ends.get(name)!();
    await settled();
  };
  return { start, end, working };
}

/** Lets what is ready run. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('turns', () => {
  test("255 steps of one owner that never end leave room for another's", async () => {
    const { start, working } = trackedLane({ total: 64, perOwner: 32 });
    for (let index = 0; index < 255; index += 1) void start('alice', `alice ${index}`);
    void start('bob');
    await settled();
    expect(working).toHaveLength(33);
    expect(working).toContain('bob');
  });

  test('owners that wait have turns', async () => {
    const { start, end, working } = trackedLane({ total: 1, perOwner: 1 });
    for (const name of ['a1', 'a2', 'a3', 'b1', 'c1']) void start(name[0]!, name);
    const order: string[] = [];
    for (await settled(); working.length > 0; ) {
      const [name] = working;
      order.push(name!);
      await end(name!);
    }
    // The second of a was there before b and c.
    expect(order).toEqual(['a1', 'a2', 'b1', 'c1', 'a3']);
  });

  test('a step that is cancelled while it waits does not begin, and holds no place', async () => {
    const { start, end, working } = trackedLane({ total: 1, perOwner: 1 });
    const cancelled = new AbortController();
    void start('alice');
    const waits = start('bob', 'cancelled', cancelled.signal);
    void start('carol');
    await settled();
    cancelled.abort(new Error('cancelled'));
    await expect(waits).rejects.toThrow('cancelled');
    await end('alice');
    expect(working).toEqual(['carol']);
  });

  test('never has more than its limits, and leaves nobody waiting that has room (fast-check)', async () => {
    const steps = fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c'), fc.boolean()), { maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 3 }), steps, async (total, perOwner, order) => {
        const { start, end, working } = trackedLane({ total, perOwner });
        const waiting = new Map<string, number>();
        let started = 0;
        for (const [owner, ends] of order) {
          started += 1;
          void start(owner, `${owner}${started}`);
          waiting.set(owner, (waiting.get(owner) ?? 0) + 1);
          await settled();
          if (ends && working.length > 0) {
            const name = working[0]!;
            await end(name);
            waiting.set(name[0]!, waiting.get(name[0]!)! - 1);
          }
          const of = (one: string) => working.filter((name) => name.startsWith(one)).length;
          expect(working.length).toBeLessThanOrEqual(total);
          for (const one of ['a', 'b', 'c']) {
            expect(of(one)).toBeLessThanOrEqual(perOwner);
            const idle = (waiting.get(one) ?? 0) - of(one);
            if (idle > 0) expect(of(one) === perOwner || working.length === total).toBe(true);
          }
        }
      }),
    );
  });
});
