import { expect } from 'vitest';
import { openLedger } from '../../ledger/client.ts';
import type { TestSite } from './the-site.ts';

/** Money on a whole site, by the API, as its operator and its owners have it. */

export interface BillAnswer {
  lease: string;
  quote: string | null;
  totalMicros: string | null;
  chargedMicros: string;
  heldMicros: string;
  uncollectedMicros: string;
  warnedAt: string | null;
  suspendedAt: string | null;
  endedAt: string | null;
}

export interface Prices {
  vcpuHourMicros: string;
  memoryGiBHourMicros: string;
  diskGiBHourMicros: string;
}

const named = () => ({ 'idempotency-key': crypto.randomUUID() });

/** Opens the account of the site's client. @param lowerLimitMicros below zero it is credit. @returns the account's id */
export async function openClientAccount({ client, operator }: TestSite, lowerLimitMicros: bigint): Promise<string> {
  const me = await client.callWithRetry<{ owner: { id: string } }>('GET', '/v1/me');
  const order = { owner: me.body.owner.id, currency: 'EUR', lowerLimitMicros: String(lowerLimitMicros) };
  const opened = await operator.callWithRetry<{ id: string }>('POST', '/v1/accounts', order, named());
  expect(opened.status, JSON.stringify(opened.body)).toBe(201);
  return opened.body.id;
}

export async function addPrices({ operator }: TestSite, prices: Prices): Promise<void> {
  const terms = { rules: [prices], feeMillionths: 50_000, taxMillionths: 190_000 };
  const added = await operator.callWithRetry('POST', '/v1/prices', { currency: 'EUR', terms }, named());
  expect(added.status, JSON.stringify(added.body)).toBe(201);
}

/** Adds to an account, or takes from it. */
export async function adjust({ operator }: TestSite, account: string, amountMicros: bigint): Promise<void> {
  const order = { amountMicros: String(amountMicros), reason: 'a test' };
  const answer = await operator.callWithRetry('POST', `/v1/accounts/${account}/adjustments`, order, named());
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
}

export async function balanceOf({ client }: TestSite, account: string): Promise<bigint> {
  const { body } = await client.callWithRetry<{ items: { id: string; balanceMicros: string }[] }>(
    'GET',
    '/v1/accounts?kind=owner',
  );
  return BigInt(body.items.find(({ id }) => id === account)!.balanceMicros);
}

export const billOf = async ({ client }: TestSite, subject: string): Promise<BillAnswer> =>
  (await client.callWithRetry<BillAnswer>('GET', `/v1/bills/${subject}`)).body;

/** Nothing is held, and no rule of the books is broken. */
export async function expectBooksInOrder({ client, operator }: TestSite): Promise<void> {
  const { body: proof } = await operator.callWithRetry<{ problems: number; found: unknown[] }>('GET', '/v1/books');
  expect(proof).toMatchObject({ problems: 0, found: [] });
  const { body } = await client.callWithRetry<{ items: { balanceMicros: string }[] }>('GET', '/v1/accounts?kind=hold&limit=100');
  expect(body.items.filter(({ balanceMicros }) => balanceMicros !== '0')).toEqual([]);
}

/** Its bill is due now, instead of in a quarter of an hour: the control worker charges it within half a minute. */
export async function makeDue({ site }: TestSite, subjects: readonly string[]): Promise<void> {
  const ledger = openLedger(site.databaseUrl, 1);
  try {
    const where = { subjectId: { in: [...subjects] }, endedAt: null, dueAt: { not: null } };
    await ledger.bill.updateMany({ where, data: { dueAt: new Date() } });
  } finally {
    await ledger.$disconnect();
  }
}
