import { encodeToPayload, loadDataConverter } from '@temporalio/common/lib/internal-non-workflow/index.js';
import { expect, test, vi } from 'vitest';
import type { Logger } from '../../../model/log.ts';
import { loggedBudget, maxPayloadBytes, strictBudget } from '../../../workers/payload-budget.ts';

/** With its quotes, as JSON. */
const text = (bytes: number): string => 'x'.repeat(bytes - 2);

test('a value beyond the bound fails in tests, and nothing repeats it', async () => {
  const converter = loadDataConverter(strictBudget());
  await expect(encodeToPayload(converter, text(maxPayloadBytes))).resolves.toBeDefined();
  await expect(encodeToPayload(converter, text(maxPayloadBytes + 1))).rejects.toMatchObject({
    nonRetryable: true,
    message: expect.stringContaining(String(maxPayloadBytes + 1)),
  });
});

test('a value beyond the bound is logged at a site, and goes on its way', async () => {
  const log = { error: vi.fn() };
  const converter = loadDataConverter(loggedBudget(log as unknown as Logger));
  await encodeToPayload(converter, text(maxPayloadBytes));
  expect(log.error).not.toHaveBeenCalled();
  const payload = await encodeToPayload(converter, text(maxPayloadBytes + 1));
  expect(payload.data?.length).toBe(maxPayloadBytes + 1);
  expect(log.error).toHaveBeenCalledOnce();
});
