import { Context } from '@temporalio/activity';
import { ActivityFailure, ApplicationFailure, CancelledFailure, TimeoutFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { describe, expect, test } from 'vitest';
import { guard, toFailure } from '../../../activities/failure.ts';
import { BerthError, type ErrorCode, errorTable } from '../../../model/errors.ts';
import { codeOf, neverStarted, taskErrorOf } from '../../../workflows/durable/failure.ts';

const environment = (info = {}) => new MockActivityEnvironment(info, { logger: new DefaultLogger('ERROR') });
const wrapped = (cause: Error) => new ActivityFailure('Activity task failed', 'stageIn', '1', 'TIMEOUT', 'host', cause);

test.each(Object.keys(errorTable) as ErrorCode[])('%s crosses Temporal and is read back', (code) => {
  const failure = toFailure(new BerthError(code, 'what was found', { fields: [{ pointer: '/a', detail: 'b' }] }));
  expect(failure).toBeInstanceOf(ApplicationFailure);
  expect(failure).toMatchObject({ type: code, nonRetryable: !errorTable[code].retryable });
  expect((failure as ApplicationFailure).details).toEqual([{ fields: [{ pointer: '/a', detail: 'b' }] }]);
  expect(taskErrorOf(wrapped(failure))).toEqual({ code, message: 'what was found' });
});

test('an unforeseen error is internal and retryable', () => {
  expect(toFailure(new TypeError('undefined is not a function'))).toMatchObject({ type: 'internal', nonRetryable: false });
  expect(codeOf(new Error('a type that is not in the table'))).toBe('internal');
});

test('only a step that no worker accepted has certainly not begun', () => {
  const timeouts = ['SCHEDULE_TO_START', 'START_TO_CLOSE', 'HEARTBEAT'] as const;
  const errors = timeouts.map((type) => wrapped(new TimeoutFailure('timed out', null, type)));
  expect(errors.map(neverStarted)).toEqual([true, false, false]);
  expect(errors.map(codeOf)).toEqual(['host-unavailable', 'host-busy', 'host-unavailable']);
});

describe('guard', () => {
  const waits = { wait: () => Context.current().cancelled };

  test('maps errors by the table, and leaves results unchanged', async () => {
    const guarded = guard({
      works: async (n: number) => n + 1,
      fails: async () => {
        throw new BerthError('disk-full', 'no room');
      },
    });
    expect(await environment().run(guarded.works, 1)).toBe(2);
    await expect(environment().run(guarded.fails)).rejects.toMatchObject({ type: 'disk-full', nonRetryable: true });
  });

  test('reports a cancellation as one, whatever the step threw after it', async () => {
    const requested = environment();
    const guarded = guard({
      ...waits,
      async waitOddly() {
        await Context.current().cancelled.catch(() => {
          throw new Error('aborted');
        });
      },
    });
    const ended = requested.run(guarded.waitOddly);
    requested.cancel('CANCELLED');
    await expect(ended).rejects.toBeInstanceOf(CancelledFailure);
  });

  test('sends heartbeats where a worker receives them, and only while the step runs', async () => {
    const beating = environment({ heartbeatTimeoutMs: 40 });
    let beats = 0;
    let enough: () => void = () => undefined;
    beating.on('heartbeat', () => {
      beats += 1;
      if (beats === 3) enough();
    });
    const guarded = guard({ step: () => new Promise<void>((resolve) => (enough = resolve)) });
    await beating.run(guarded.step);
    expect(beats).toBe(3);
    const silent = environment({ heartbeatTimeoutMs: undefined });
    silent.on('heartbeat', () => expect.unreachable());
    await silent.run(guard({ step: async () => undefined }).step);
  });
});
