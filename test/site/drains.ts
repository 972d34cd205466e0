import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import type { TaskAnswer } from './client.ts';
import { countsPast, faultOf, numbersOf } from './moves.ts';
import { expectNothingLeft, type TestSite } from './the-site.ts';

/** Capacity for eight VMs on each host of a machine with two processors, instead of two. */
export const crowded = { BERTH_VCPU_RATIO: '16' };

export interface DrainAnswer {
  id: string;
  host: string;
  state: string;
  deadline: string;
  predictedS: number | null;
  boundS: number | null;
  createdAt: string;
  startedAt: string | null;
  emptiedAt: string | null;
  progress: { moved: number; moving: number; left: number };
  moves: { migration: string; vm: string; from: string; to: string | null; state: string }[];
  remaining: { what: string; why: string }[];
  suspended: { vm: string; wasSuspended: boolean }[];
}

export interface DrainOrder {
  strategy?: 'auto' | 'sequential' | 'parallel';
  mode?: 'auto' | 'live' | 'cold';
  suspendInPlace?: 'never' | 'ifStuck';
  confidence?: number;
  returnAfter?: string;
}

export const drainEnds = ['empty', 'incomplete', 'cancelled', 'returned'] as const;
export const isOver = ({ state }: DrainAnswer): boolean => (drainEnds as readonly string[]).includes(state);

export const secondsFrom = (from: string, to: string): number => (Date.parse(to) - Date.parse(from)) / 1000;

const path = (host: string): string => `/v1/hosts/${host}/drains`;

/** The earliest deadline that the site promises, read from its refusal of one in the past. */
export async function earliestDrain({ operator }: TestSite, host: string, order: DrainOrder = {}): Promise<number> {
  const deadline = new Date().toISOString();
  const { body } = await operator.callWithRetry<{ earliest?: string | null }>('POST', path(host), { deadline, ...order });
  if (body.earliest == null) throw new Error(`no earliest time to empty ${host} by: ${JSON.stringify(body)}`);
  return Date.parse(body.earliest);
}

/** null: the drain is refused, because the host can't be empty by then. */
export async function askDrain(
  { operator }: TestSite,
  host: string,
  deadlineMs: number,
  order: DrainOrder = {},
): Promise<DrainAnswer | null> {
  const headers = { 'idempotency-key': crypto.randomUUID() };
  const requested = { deadline: new Date(deadlineMs).toISOString(), ...order };
  const { status, body } = await operator.callWithRetry<DrainAnswer & { code?: string }>('POST', path(host), requested, headers);
  if (body.code === 'drain-impossible') return null;
  if (status !== 202) throw new Error(`drain of ${host}: ${status} ${JSON.stringify(body)}`);
  return body;
}

/** Requests a drain by the earliest deadline that is promised for it, and a little more. */
export async function drainSoon(test: TestSite, host: string, moreMs: number, order: DrainOrder = {}): Promise<DrainAnswer> {
  const drain = await askDrain(test, host, (await earliestDrain(test, host, order)) + moreMs, order);
  if (drain === null) throw new Error(`${host} can't be empty by the time that was promised, and ${moreMs} ms`);
  return drain;
}

export async function readDrain({ operator }: TestSite, id: string): Promise<DrainAnswer> {
  return (await operator.callWithRetry<DrainAnswer>('GET', `/v1/drains/${id}`)).body;
}

export async function untilDrain(
  test: TestSite,
  id: string,
  met: (drain: DrainAnswer) => boolean = isOver,
  seconds = 300,
): Promise<DrainAnswer> {
  for (const untilMs = Date.now() + seconds * 1000; ; await delay(100)) {
    const drain = await readDrain(test, id);
    if (met(drain)) return drain;
    if (isOver(drain) || Date.now() > untilMs) throw new Error(`${id} is ${drain.state}: ${JSON.stringify(drain)}`);
  }
}

/** The host is emptied, and accepts work again. */
export async function openAgain({ operator }: TestSite, host: string): Promise<void> {
  await operator.callWithRetry('PATCH', `/v1/hosts/${host}`, { schedulable: true, acceptsMigrations: true });
}

/** Opens the hosts to new work, or closes them. */
export async function setSchedulable({ operator }: TestSite, hosts: readonly string[], schedulable: boolean): Promise<void> {
  await Promise.all(hosts.map((id) => operator.callWithRetry('PATCH', `/v1/hosts/${id}`, { schedulable })));
}

/**
 * Starts tasks that run, all on one host: the others are closed to new work meanwhile, and so is the host itself once it
 * has them, so that it doesn't begin to make templates of what it boots.
 */
export async function gatherOn(test: TestSite, host: string, specs: readonly Record<string, unknown>[]): Promise<TaskAnswer[]> {
  const { client, site } = test;
  const all = site.hosts.map(({ id }) => id);
  const others = all.filter((id) => id !== host);
  await setSchedulable(test, others, false);
  await setSchedulable(test, [host], true);
  const tasks = await Promise.all(specs.map((spec) => client.submit(spec)));
  for (const { id } of tasks) await client.until(id, ['stagingIn', 'starting', 'running'], 300);
  await setSchedulable(test, [host], false);
  const running: TaskAnswer[] = [];
  for (const { id } of tasks) running.push(await client.until(id, ['running'], 300));
  await setSchedulable(test, all, true);
  return running;
}

/**
 * Every count increases, by at least this many, with no gap and no repetition; then the tasks are ended, and nothing is
 * left of them.
 */
export async function expectUnharmed(test: TestSite, tasks: readonly TaskAnswer[], more: number): Promise<void> {
  for (const { id } of tasks) {
    const numbers = await countsPast(test, id, (await numbersOf(test, id)).length + more);
    expect(faultOf(numbers)).toBeNull();
    await test.client.callWithRetry('DELETE', `/v1/tasks/${id}`);
  }
  for (const { id } of tasks) expect((await test.client.over(id)).state).toBe('cancelled');
  await expectNothingLeft(test);
}
