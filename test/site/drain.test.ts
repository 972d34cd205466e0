import { expect, test } from 'vitest';
import { fullTest } from '../full-test.ts';
import { askDrain, drainSoon, expectUnharmed, gatherOn, openAgain, secondsFrom, untilDrain } from './drains.ts';
import { copiesOf, counter, countsPast } from './moves.ts';
import { onSharedSite } from './shared-site.ts';
import { warm } from './subjects.ts';
import { expectNothingLeft, onHost, type TestSite } from './the-site.ts';

let here: TestSite;
onSharedSite(async (site) => {
  here = site;
  // The deadlines that are promised while targets have to fetch the image first are minutes away.
  await warm(here);
});

test('a host is empty by its deadline, by the ledger and the hypervisors, and no command on it was disturbed', async () => {
  const [host, ...others] = here.site.hosts.map(({ id }) => id) as [string, ...string[]];
  const tasks = await gatherOn(here, host, [counter(100_000, 160), counter(100_000, 160)]);
  const vms = tasks.flatMap((task) => task.vms);
  for (const { id } of tasks) await countsPast(here, id, 3);
  const requested = await drainSoon(here, host, 10_000);
  const drain = await untilDrain(here, requested.id);
  expect(drain, JSON.stringify(drain)).toMatchObject({
    state: 'empty',
    remaining: [],
    progress: { moved: 2, moving: 0, left: 0 },
  });
  expect(secondsFrom(drain.emptiedAt!, drain.deadline)).toBeGreaterThanOrEqual(0);
  console.log(
    `predicted ${drain.predictedS?.toFixed(1)} s, at most ${drain.boundS?.toFixed(1)} s, took ${secondsFrom(drain.startedAt!, drain.emptiedAt!).toFixed(1)} s; empty ${secondsFrom(drain.emptiedAt!, drain.deadline).toFixed(1)} s before its deadline`,
  );
  expect((await onHost(here, host, ['virsh', '-q', 'list', '--all', '--name'])).trim()).toBe('');
  const copies = await Promise.all(vms.map((vm) => copiesOf(here, vm)));
  expect(copies.map((found) => found.map(({ state }) => state))).toEqual(vms.map(() => ['running']));
  expect(new Set(copies.flatMap((found) => found.map((copy) => copy.host)))).toEqual(new Set(others));
  await expectUnharmed(here, tasks, 3);
  await openAgain(here, host);
});

/** The lines that a guest writes to its console as it counts. */
async function ticksOf(vm: string): Promise<number[]> {
  const { body } = await here.client.callWithRetry<string>('GET', `/v1/vms/${vm}/console`);
  return [...body.matchAll(/^tick (\d+)\r?$/gm)].map(([, tick]) => Number(tick));
}

fullTest(
  'a VM that no other host can take is suspended there, by the ledger and the hypervisors, and resumes when the host is returned',
  async () => {
    const { client, operator, site } = here;
    const counting = 'i=0; while :; do i=$((i+1)); echo tick $i >/dev/ttyS0; sleep 0.5; done';
    const requested = await client.callWithRetry<{ id: string }>('POST', '/v1/vms', {
      name: 'lies',
      image: 'debian-12',
      resources: { vcpus: 1, memoryMiB: 128, diskMiB: 16 },
      firstBoot: [`setsid sh -c '${counting}' </dev/null >/dev/null 2>&1 &`],
    });
    const { id } = requested.body;
    await expect.poll(() => ticksOf(id), { timeout: 180_000 }).toContain(3);
    const { host } = (await client.callWithRetry<{ host: string }>('GET', `/v1/vms/${id}`)).body;
    const others = site.hosts.map((one) => one.id).filter((one) => one !== host);
    const accept = (acceptsMigrations: boolean) =>
      Promise.all(others.map((one) => operator.callWithRetry('PATCH', `/v1/hosts/${one}`, { acceptsMigrations })));
    await accept(false);
    expect(await askDrain(here, host, Date.now() + 60_000)).toBeNull();
    const order = { suspendInPlace: 'ifStuck' as const, returnAfter: new Date(Date.now() + 3600_000).toISOString() };
    const drain = await drainSoon(here, host, 5_000, order);
    // In the middle of the drain, as nearly as can be arranged.
    const control = site.child('control');
    const restarts = control.restarts();
    await untilDrain(here, drain.id, ({ state }) => state !== 'waiting');
    control.kill('SIGKILL');
    await control.untilReadyAgain(restarts, 60_000);
    const held = await untilDrain(here, drain.id, ({ state }) => state === 'held');
    expect([held.suspended, held.remaining, held.progress.left]).toEqual([[{ vm: id, wasSuspended: false }], [], 0]);
    const tookS = secondsFrom(held.startedAt!, held.emptiedAt!);
    console.log(
      `empty ${tookS.toFixed(1)} s after it was begun and its control worker killed; ${held.boundS?.toFixed(1)} s were predicted at most`,
    );
    expect((await onHost(here, host, ['virsh', '-q', 'list', '--all', '--name'])).trim()).toBe('');
    expect((await client.call<{ code: string }>('POST', `/v1/vms/${id}/restore`)).body.code).toBe('conflict');
    const before = await ticksOf(id);
    await operator.callWithRetry('POST', `/v1/drains/${drain.id}/cancel`, { goBack: false });
    expect((await untilDrain(here, drain.id)).state).toBe('cancelled');
    const last = before.at(-1)!;
    await expect.poll(() => ticksOf(id), { timeout: 60_000 }).toContain(last + 3);
    // Not started again: one guest has counted all the time.
    const ticks = await ticksOf(id);
    expect(ticks).toEqual(ticks.map((_, i) => ticks[0]! + i));
    const types = (await client.eventsOf(id)).map(({ type }) => type.replace('berth.vm.', ''));
    expect(types).toEqual(['created', 'started', 'suspended', 'restored']);
    await client.callWithRetry('DELETE', `/v1/vms/${id}`);
    await expect
      .poll(async () => (await client.callWithRetry<{ state: string }>('GET', `/v1/vms/${id}`)).body.state, { timeout: 60_000 })
      .toBe('removed');
    await accept(true);
    await expectNothingLeft(here);
  },
);
