import { pino } from 'pino';
import { beforeEach, describe, expect, it } from 'vitest';
import type { EdgeAnswer, EdgeOrders, EdgeReport, PortOrder } from '../../../contracts/edge.ts';
import { type EdgeFollower, followOrders } from '../../../workers/edge/follow-orders.ts';

const port = (id: string): PortOrder => ({
  id,
  vni: 7,
  protocol: 'tcp',
  publicAddress: '203.0.113.7',
  publicPort: 20_000,
  address: '10.128.0.9',
  port: 80,
  allow: [],
  digest: `of ${id}`,
});
const ordersOf = (...ids: string[]): EdgeOrders => ({
  publicAddresses: ['203.0.113.7'],
  peers: [],
  segments: [],
  ports: ids.map(port),
});

/** What the API is answered with, and what the kernel does. */
let nowMs: number;
let reports: EdgeReport[];
let answer: (() => EdgeAnswer) | null;
let held: string[];
let taken: boolean;
let applied: EdgeOrders[];
/** Resolves or rejects what is being applied. */
let finish: ((error?: Error) => void) | null;
let edge: EdgeFollower;

beforeEach(() => {
  [nowMs, reports, held, taken, applied, finish] = [10_000, [], [], false, [], null];
  answer = () => ({ turn: reports.length, epoch: 1, version: 'v1', wantsPorts: true, orders: ordersOf('a') });
  edge = followOrders({
    address: '192.0.2.221',
    kernel: {
      apply: (orders) =>
        new Promise((resolve, reject) => {
          finish = (error) => {
            if (error !== undefined) return reject(error);
            applied.push(orders);
            resolve();
          };
        }),
    },
    publicAddresses: {
      hold: async (addresses) => {
        held = [...addresses];
      },
      release: async () => {
        held = [];
      },
      areTaken: async () => taken,
    },
    ask: async (report) => {
      reports.push(report);
      if (answer === null) throw new Error('no API answers');
      return answer();
    },
    clock: () => nowMs,
    log: pino({ level: 'silent' }),
  });
});

async function applyNow(error?: Error): Promise<void> {
  finish!(error);
  await edge.settled();
}

/** A pass, and its rules in the kernel. */
async function whole(): Promise<void> {
  await edge.pass();
  await applyNow();
}

describe('an edge', () => {
  it('has no public address before it has its rules', async () => {
    await edge.pass();
    expect(held).toEqual([]);
    await edge.pass();
    expect(held).toEqual([]);
    await applyNow();
    await edge.pass();
    expect(held).toEqual(['203.0.113.7']);
  });

  it('says which ports it has, and those that it may yet have, when it is asked', async () => {
    await edge.pass();
    expect(reports[0]?.ports).toBeNull();
    await edge.pass();
    // An earlier worker may have left any.
    expect(reports[1]?.ports).toBeNull();
    await applyNow();
    answer = () => ({ turn: 3, epoch: 1, version: 'v2', wantsPorts: true, orders: ordersOf('b') });
    await edge.pass();
    expect(reports[2]).toMatchObject({ ports: { a: 'of a' }, version: 'v1', epoch: 1, turn: 2 });
    answer = () => ({ turn: 4, epoch: 1, version: 'v3', wantsPorts: true, orders: ordersOf('c') });
    await edge.pass();
    // `b` is being applied, `a` is there.
    expect(reports[3]?.ports).toEqual({ a: 'of a', b: '' });
    await edge.pass();
    expect(reports[4]?.ports).toEqual({ a: 'of a', b: '', c: '' });
    await applyNow();
    answer = () => ({ turn: 6, epoch: 1, version: 'v3', wantsPorts: false, orders: null });
    await whole();
    expect(reports[5]?.ports).toEqual({ b: 'of b', c: '' });
    await edge.pass();
    expect(reports[6]?.ports).toBeNull();
    expect(applied.map(({ ports }) => ports[0]?.id)).toEqual(['a', 'b', 'c']);
  });

  it('says what failed, keeps what it had, and tries again', async () => {
    await whole();
    answer = () => ({ turn: 2, epoch: 1, version: 'v2', wantsPorts: true, orders: ordersOf('b') });
    await edge.pass();
    await applyNow(new Error('no such table'));
    await edge.pass();
    // Of rules that failed half may be there.
    expect(reports[2]).toMatchObject({ problem: 'no such table', ports: { a: 'of a', b: '' } });
    expect([held, edge.status().failing]).toEqual([['203.0.113.7'], true]);
    await applyNow();
    await edge.pass();
    expect(reports[3]).toMatchObject({ problem: null, ports: { b: 'of b' } });
  });

  it('extends no address by an answer that is late', async () => {
    await whole();
    held = [];
    const prompt = answer!;
    answer = () => {
      nowMs += 950;
      return prompt();
    };
    await edge.pass();
    expect(held).toEqual([]);
    answer = prompt;
    await edge.pass();
    expect(held).toEqual(['203.0.113.7']);
  });

  it('gives the addresses up when another edge has the lease', async () => {
    await whole();
    await edge.pass();
    answer = () => ({ turn: 3, epoch: null, version: 'v1', wantsPorts: false, orders: null });
    await edge.pass();
    expect([held, edge.status().active]).toEqual([[], false]);
  });

  it('keeps them without an API, until another machine answers for one', async () => {
    await whole();
    answer = null;
    for (let times = 0; times < 5; times += 1) {
      nowMs += 600;
      held = [];
      await expect(edge.pass()).rejects.toThrow('no API answers');
      expect(held).toEqual(['203.0.113.7']);
    }
    taken = true;
    nowMs += 600;
    await expect(edge.pass()).rejects.toThrow();
    await expect(edge.pass()).rejects.toThrow();
    expect([held, edge.status().active]).toEqual([[], false]);
  });

  it('applies its rules again now and then', async () => {
    await whole();
    await edge.pass();
    expect(applied).toHaveLength(1);
    nowMs += 31_000;
    await whole();
    expect(applied).toHaveLength(2);
  });
});
