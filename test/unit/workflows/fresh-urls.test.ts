import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { failure } from '../../../workflows/durable/failure.ts';
import { withFreshUrls } from '../../../workflows/durable/fresh-urls.ts';

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

/** Acts with URLs that the repository refuses after as many ms each; null: it accepts. */
async function run(refusedAfterMs: (number | null)[]): Promise<{ result: string; issued: number }> {
  let issued = 0;
  const act = async (url: number): Promise<string> => {
    const afterMs = refusedAfterMs[url - 1] ?? null;
    if (afterMs === null) return 'done';
    vi.setSystemTime(Date.now() + afterMs);
    throw failure('forbidden', 'expired');
  };
  const result = await withFreshUrls(async () => ++issued, act).catch((error) => error.type);
  return { result, issued };
}

describe('a step with signed URLs', () => {
  it('gets fresh ones once where they are refused', async () => {
    expect(await run([0])).toEqual({ result: 'done', issued: 2 });
  });

  it('gets them each time that they have expired in use: a guest may be paused for weeks', async () => {
    expect(await run([3_600_000, 3_600_000, 3_600_000])).toEqual({ result: 'done', issued: 4 });
  });

  it('ends as a fault of the site, not as `forbidden`, where what was just signed is refused', async () => {
    expect(await run([3_600_000, 0, 0, 0])).toEqual({ result: 'repository-unavailable', issued: 2 });
  });

  it('passes every other failure on', async () => {
    const act = () => Promise.reject(failure('disk-full', 'no room'));
    await expect(withFreshUrls(async () => 1, act)).rejects.toMatchObject({ type: 'disk-full' });
  });
});
