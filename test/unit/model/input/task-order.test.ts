import { describe, expect, it } from 'vitest';
import { TaskOrder } from '../../../../model/input/task-order.ts';
import { TaskSpec } from '../../../../model/task.ts';

const least = { image: 'debian-12', command: ['true'] };
const times = (more: object) => {
  const { timeoutS, lease } = TaskOrder.parse({ ...least, ...more });
  return [timeoutS, lease.durationS];
};

describe("the size of a task's orders", () => {
  const inputs = (count: number) =>
    Array.from({ length: count }, (_, n) => ({ path: `in/${n}`, file: 'file_01kb9xbcdrf5ar7dt0m1pkch4s' }));

  it.each([
    { nodes: 64, inputs: inputs(400) },
    { nodes: 64, command: ['sh', '-c', 'x'.repeat(60 * 1024)], inputs: inputs(200) },
    {
      nodes: 4,
      inputs: Array.from({ length: 1000 }, (_, n) => ({ path: `in/${n}`, url: `https://example.org/${'x'.repeat(1900)}` })),
    },
  ])('is bounded over all nodes: case %#', (more) => {
    const parsed = TaskOrder.safeParse({ ...least, ...more });
    expect(parsed.error?.issues.map(({ path }) => path.join('/'))).toEqual(['nodes']);
  });

  it.each([
    { nodes: 64, inputs: inputs(100) },
    { nodes: 64, command: ['sh', '-c', 'x'.repeat(60 * 1024)] },
    { nodes: 1, inputs: inputs(1000), command: ['sh', '-c', 'x'.repeat(60 * 1024)], env: { TEXT: 'x'.repeat(30 * 1024) } },
  ])('leaves room for what its hosts can fetch: case %#', (more) => {
    expect(TaskOrder.safeParse({ ...least, ...more }).error).toBeUndefined();
  });
});

it.each([
  ['\u0001', ['outputs']],
  ['"', undefined],
])('patterns of %j have their budget in its history', (unit, expected) => {
  const outputs = Array.from({ length: 100 }, (_, n) => `${n}/${unit.repeat(240)}/${unit.repeat(240)}`);
  const parsed = TaskOrder.safeParse({ ...least, outputs });
  expect(parsed.error?.issues.map(({ path }) => path.join('/'))).toEqual(expected);
});

describe("the time of a task's lease", () => {
  it.each([
    [{}, [600, 600]],
    [{ timeoutS: 300 }, [300, 300]],
    [{ timeoutS: 86_400 }, [86_400, 86_400]],
    [{ lease: { durationS: 60 } }, [60, 60]],
    [{ lease: { durationS: 7200 } }, [600, 7200]],
    [{ timeoutS: 60, lease: { durationS: 60 } }, [60, 60]],
  ])('of %j is %j: it lasts as long as the command may run', (more, expected) => {
    expect(times(more)).toEqual(expected);
  });

  it.each([
    { timeoutS: 300, lease: { durationS: 30 } },
    { timeoutS: 61, lease: { kind: 'immediate', durationS: 60 } },
    { timeoutS: 7200, lease: { kind: 'reservation', startAt: '2026-12-01T00:00:00Z', durationS: 3600 } },
  ])('is refused where it ends before the command may: %j', (more) => {
    const parsed = TaskOrder.safeParse({ ...least, ...more });
    expect(parsed.error?.issues.map(({ path }) => path.join('/'))).toEqual(['lease/durationS']);
  });

  it('leaves nothing for another reading to fill in', () => {
    const order = TaskOrder.parse(least);
    expect(TaskOrder.parse(order)).toEqual(order);
    expect(TaskSpec.parse(order)).toEqual(order);
  });

  it('may be shorter in what an earlier version has stored', () => {
    expect(TaskSpec.safeParse({ ...least, timeoutS: 300, lease: { durationS: 30 } }).success).toBe(true);
  });
});

it('a thousand inputs and a folder among them are told apart in linear time', () => {
  const inputs = Array.from({ length: 1000 }, (_, i) => ({ path: `${'d/'.repeat(200)}${i}`, file: 'f' }));
  const began = performance.now();
  expect(TaskOrder.safeParse({ ...least, inputs }).success).toBe(true);
  expect(TaskOrder.safeParse({ ...least, inputs: [...inputs.slice(1), { path: 'd/d', file: 'f' }] }).success).toBe(false);
  expect(performance.now() - began).toBeLessThan(1000);
});
