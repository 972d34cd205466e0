import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { openAgentCalls } from '../../../../drivers/guest/agent-calls.ts';
import { type Virsh, VirshUnresponsive } from '../../../../drivers/libvirt/virsh.ts';

/** Time is simulated: an agent that is silent answers nobody, up to the deadline of its caller. */
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const calls: { domain: string; underWay: number }[] = [];
const underWay = new Map<string, number>();
const virsh: Virsh = {
  async call(command, deadlineMs) {
    const domain = command[1]!;
    underWay.set(domain, (underWay.get(domain) ?? 0) + 1);
    calls.push({ domain, underWay: underWay.get(domain)! });
    const silent = domain.startsWith('silent');
    await new Promise((resolve) => setTimeout(resolve, silent ? deadlineMs : 2));
    underWay.set(domain, underWay.get(domain)! - 1);
    if (silent) throw new VirshUnresponsive(command, `no answer in ${deadlineMs} ms`);
    return { ok: true, output: '{"return":{}}' };
  },
  prestart: () => undefined,
  close: () => undefined,
};
beforeEach(() => {
  calls.splice(0);
  underWay.clear();
});

const open = () => openAgentCalls(virsh, virsh, { quick: 24, slow: 6 });
const ping = (pools: ReturnType<typeof open>, domain: string, deadlineMs = 25_000) =>
  pools.call(['qemu-agent-command', domain, '{}'], deadlineMs);
/** How long a call takes, in simulated ms, and whether it was answered. */
async function timed(call: Promise<unknown>): Promise<{ ms: number; answered: boolean }> {
  const began = performance.now();
  const answered = await call.then(
    () => true,
    () => false,
  );
  return { ms: performance.now() - began, answered };
}

it('guests whose agents are silent make others wait for nothing once each of them was slow, however many they are', async () => {
  const pools = open();
  // As many as there are places, and twice as many again afterwards.
  const keepAsking = [24, 48].map(async (count, wave) => {
    await new Promise((resolve) => setTimeout(resolve, wave * 6000));
    for (let round = 0; round < 6; round += 1)
      await Promise.all(Array.from({ length: count }, (_, i) => timed(ping(pools, `silent-${i}`, 5000))));
  });
  await vi.advanceTimersByTimeAsync(17_000);
  for (let round = 0; round < 5; round += 1) {
    const quick = Promise.all(Array.from({ length: 20 }, (_, i) => timed(ping(pools, `quick-${i}`))));
    await vi.advanceTimersByTimeAsync(100);
    for (const { ms, answered } of await quick) expect([answered, ms < 50]).toEqual([true, true]);
    await vi.advanceTimersByTimeAsync(5000);
  }
  await vi.advanceTimersByTimeAsync(120_000);
  await Promise.all(keepAsking);
});

it('a deadline includes the wait, and what was not called in time is not called at all', async () => {
  const pools = open();
  const both = Promise.all([timed(ping(pools, 'silent', 20_000)), timed(ping(pools, 'silent', 20_000))]);
  await vi.advanceTimersByTimeAsync(20_001);
  expect((await both).map(({ ms, answered }) => [Math.round(ms), answered])).toEqual([
    [20_000, false],
    [20_000, false],
  ]);
  expect(calls).toHaveLength(1);
});

it('a domain has one call at a time, and its calls keep their order', async () => {
  const pools = open();
  const all = Promise.all(Array.from({ length: 10 }, () => ping(pools, 'one')));
  await vi.advanceTimersByTimeAsync(100);
  expect(await all).toHaveLength(10);
  expect(calls.map((call) => call.underWay)).toEqual(Array(10).fill(1));
});

it('a guest that answers again is a quick one after a minute', async () => {
  const pools = open();
  const first = timed(ping(pools, 'silent-then', 5000));
  await vi.advanceTimersByTimeAsync(5001);
  expect((await first).answered).toBe(false);
  // Six that are silent fill the places of the slow.
  const others = Array.from({ length: 6 }, (_, i) => timed(ping(pools, `silent-${i}`, 4000)));
  await vi.advanceTimersByTimeAsync(4001);
  await Promise.all(others);
  const filled = Array.from({ length: 6 }, (_, i) => timed(ping(pools, `silent-${i}`, 200_000)));
  const waits = timed(ping(pools, 'silent-then', 1000));
  await vi.advanceTimersByTimeAsync(1001);
  expect((await waits).answered).toBe(false);
  expect(calls.filter(({ domain }) => domain === 'silent-then')).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(60_000);
  const later = timed(ping(pools, 'silent-then', 1000));
  await vi.advanceTimersByTimeAsync(1001);
  await later;
  expect(calls.filter(({ domain }) => domain === 'silent-then')).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(200_000);
  await Promise.all(filled);
});
