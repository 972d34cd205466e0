import { EventEmitter } from 'node:events';
import { setImmediate as tick } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { takeRequestTurns } from '../../api/http/body-turns.ts';

let admitted: string[];
let handler: ReturnType<typeof takeRequestTurns>;
beforeEach(() => {
  admitted = [];
  handler = takeRequestTurns((req) => (req as unknown as { owner: string }).owner);
});
afterEach(() => void vi.useRealTimers());

/** A request of an owner, whose answer the test writes. */
function send(owner: string) {
  const res = Object.assign(new EventEmitter(), { writeHead: () => res });
  handler({ owner } as never, res as never, () => void admitted.push(owner));
  return res as unknown as EventEmitter & { writeHead(): void };
}
const of = (owner: string) => admitted.filter((one) => one === owner).length;

it("four requests of an owner are worked on at a time, and another's does not wait for them", async () => {
  const answers = Array.from({ length: 100 }, () => send('alice'));
  await tick();
  send('bob');
  await tick();
  expect([of('alice'), of('bob')]).toEqual([4, 1]);
  answers[0]!.writeHead();
  answers[1]!.emit('close');
  await tick();
  expect(of('alice')).toBe(6);
});

it('a caller that goes while it waits is not admitted, and one that is not answered within a second gives its turn away', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  for (let n = 0; n < 4; n += 1) send('alice');
  const waiting = [send('alice'), send('alice')];
  await tick();
  waiting[0]!.emit('close');
  await tick();
  expect(of('alice')).toBe(4);
  vi.advanceTimersByTime(1000);
  await tick();
  expect(of('alice')).toBe(5);
});

it('an owner that has used more of a busy process than another rests between its turns', async () => {
  const work = async (owners: string[]): Promise<void> => {
    const answers = owners.map(send);
    await tick();
    const untilMs = performance.now() + 40;
    while (performance.now() < untilMs);
    for (const answer of answers) answer.writeHead();
    await tick();
  };
  await work(['alice']);
  await work(['bob']);
  await work(['alice', 'alice', 'alice', 'alice']);
  for (const owner of ['alice', 'bob', 'bob']) send(owner);
  await tick();
  expect([of('alice'), of('bob')]).toEqual([5, 3]);
  await vi.waitFor(() => expect(of('alice')).toBe(6));
});
