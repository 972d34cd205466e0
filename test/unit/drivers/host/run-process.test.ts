import { describe, expect, it } from 'vitest';
import { ProcessError, run } from '../../../../drivers/host/run-process.ts';

const failure = async (promise: Promise<unknown>): Promise<ProcessError> => {
  const error: unknown = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof ProcessError) return error;
  throw new Error(`expected a ProcessError, found ${String(error)}`);
};

describe('the runner of programs', () => {
  it('passes argv and input unchanged', async () => {
    expect(await run(['printf', '<%s>', 'a b', '$HOME', ''], { deadlineMs: 5000 })).toBe('<a b><$HOME><>');
    expect(await run(['cat'], { deadlineMs: 5000, input: 'given' })).toBe('given');
  });

  it('reports which program failed, how, and its last output', async () => {
    const error = await failure(run(['sh', '-c', 'echo first >&2; echo last >&2; exit 3'], { deadlineMs: 5000 }));
    expect([error.why, error.exitCode, error.message]).toEqual(['exit', 3, expect.stringContaining('exit 3: first | last')]);
    expect((await failure(run(['/no/such/program'], { deadlineMs: 5000 }))).why).toBe('absent');
  });

  it('ends it with all that it started at the deadline, and at too much output', async () => {
    const began = performance.now();
    const late = await failure(run(['sh', '-c', 'sleep 60 & sleep 60'], { deadlineMs: 100 }));
    expect([late.why, performance.now() - began < 5000]).toEqual(['deadline', true]);
    expect((await failure(run(['yes'], { deadlineMs: 5000, limitBytes: 1000 }))).why).toBe('output');
  });

  it("gives the signal's own reason when that ends it", async () => {
    const abort = new AbortController();
    const running = run(['sleep', '60'], { deadlineMs: 60_000, signal: abort.signal });
    abort.abort(new Error('enough'));
    await expect(running).rejects.toThrow('enough');
    await expect(run(['true'], { deadlineMs: 1000, signal: abort.signal })).rejects.toThrow('enough');
  });
});
