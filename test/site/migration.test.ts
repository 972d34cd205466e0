import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { fullTest } from '../full-test.ts';
import { isFull } from '../tier.ts';
import { type MigrationAnswer, move, moveOver, readMove, readsPast } from './moves.ts';
import { onSharedSite } from './shared-site.ts';
import { finish, onlyAt, runningAt, type Subject, vmOf, warm, working } from './subjects.ts';
import { expectOneCompletion, limitNetwork, onHost, type TestSite } from './the-site.ts';

/** A selection of what `npm run torture -- migrate` does at length. */
let here: TestSite;
onSharedSite(async (site) => {
  here = site;
  await warm(here);
});

/** One copy exists, which continues to count where the ledger says, and nothing on the other hosts. */
async function expectUnharmed({ vm, numbers }: Subject, migration: MigrationAnswer): Promise<void> {
  await runningAt(here, vm, (migration.state === 'succeeded' ? migration.to : migration.from) ?? '');
  await onlyAt(here, vm);
  await readsPast(numbers, (await numbers()).length);
}

test('a VM moves while its command runs, no image is copied, and each host is credited with its share', async () => {
  const subject = await working(here);
  const migration = await moveOver(here, (await move(here, subject.vm)).id);
  expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', error: null });
  expect(migration.downtimeMs).not.toBeNull();
  console.log(
    `downtime ${migration.downtimeMs} ms, ${Math.round(migration.bytes / 2 ** 20)} MiB, ${JSON.stringify(migration.phases)}`,
  );
  await expectUnharmed(subject, migration);
  const task = await finish(here, subject);
  const { usage } = (await expectOneCompletion(here.client, task!)) as { usage: { host: string }[] };
  expect(usage.map(({ host }) => host)).toEqual([migration.from, migration.to]);
  const [moved] = (await here.client.eventsOf(subject.vm)).filter(({ type }) => type === 'berth.vm.migrated');
  expect(moved?.data).toMatchObject({ from: { host: migration.from }, to: { host: migration.to } });
});

/** A moment in a migration, which takes about two seconds here; logged, so that it can be repeated. */
function moment(): Promise<number> {
  const ms = Math.round(Math.random() * 2000);
  return new Promise((resolve) => setTimeout(() => resolve(ms), ms));
}

type Victim = readonly [what: string, name: (migration: MigrationAnswer) => string];
const sourceWorker: Victim = ['the source’s worker', ({ from }) => `${from}/worker`];
const victims: Victim[] = [
  sourceWorker,
  ['the target’s worker', ({ to }) => `${to}/worker`],
  ['the control worker', () => 'control'],
];

test('SIGKILL of a process that takes part in a migration, at a random moment, leaves one unharmed copy', async () => {
  const subject = await working(here);
  for (const [what, victim] of isFull ? victims : [sourceWorker]) {
    const { host } = await vmOf(here, subject.vm);
    const requested = await move(here, subject.vm, { to: here.site.hosts.find(({ id }) => id !== host)!.id });
    const ms = await moment();
    const child = here.site.child(victim(requested));
    const restarts = child.restarts();
    child.kill('SIGKILL');
    await child.untilReadyAgain(restarts, 60_000);
    const migration = await moveOver(here, requested.id);
    console.log(`killed ${what} after ${ms} ms: ${migration.state}, ${JSON.stringify(migration.error)}`);
    await expectUnharmed(subject, migration);
  }
  await finish(here, subject);
});

fullTest('a partition of hosts at a random moment leaves one unharmed copy', async () => {
  const subject = await working(here);
  const { host } = await vmOf(here, subject.vm);
  const [from, to] = [host, here.site.hosts.find(({ id }) => id !== host)!.id].map(
    (id) => here.site.hosts.find((one) => one.id === id)!,
  );
  const requested = await move(here, subject.vm, { to: to!.id });
  const ms = await moment();
  const mend = await from!.partition([to!.address]);
  await new Promise((resolve) => setTimeout(resolve, 12_000));
  await mend();
  const migration = await moveOver(here, requested.id);
  console.log(`cut ${requested.from} off from ${to!.id} after ${ms} ms: ${migration.state}, ${JSON.stringify(migration.error)}`);
  await expectUnharmed(subject, migration);
  await finish(here, subject);
});

fullTest(
  'the disks follow a VM that moved, at once or later, while it runs, and the host that it left keeps nothing of it',
  async () => {
    const subject = await working(here);
    const { vm } = subject;
    const migration = await moveOver(here, (await move(here, vm, { moveDisk: true })).id);
    expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', error: null });
    expect(migration.phases.map(({ name }) => name)).toContain('moveDisk');
    expect(await vmOf(here, vm)).toMatchObject({ home: migration.to, host: migration.to });
    await expectUnharmed(subject, migration);
    const away = await moveOver(here, (await move(here, vm)).id);
    const disks = await moveOver(here, (await move(here, vm, { mode: 'disks' })).id);
    expect(disks, JSON.stringify(disks)).toMatchObject({ state: 'succeeded', error: null, from: migration.to, to: away.to });
    console.log(`${(disks.bytes / 2 ** 20).toFixed(1)} MiB of disks: ${JSON.stringify(disks.phases)}`);
    expect(await vmOf(here, vm)).toMatchObject({ home: away.to, host: away.to });
    await expectUnharmed(subject, disks);
    await finish(here, subject);
  },
);

fullTest('a VM is copied to another host as files, and back, and on the way back only what changed is transferred', async () => {
  const subject = await working(here);
  const { vm } = subject;
  const there = await moveOver(here, (await move(here, vm, { mode: 'cold', moveDisk: true })).id);
  expect(there, JSON.stringify(there)).toMatchObject({ state: 'succeeded', mode: 'cold', error: null });
  await readsPast(subject.numbers, (await subject.numbers()).length + 3);
  const back = await moveOver(here, (await move(here, vm, { mode: 'cold', moveDisk: true, to: there.from })).id);
  expect(back, JSON.stringify(back)).toMatchObject({ state: 'succeeded', to: there.from });
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  console.log(
    `${mib(there.bytes)} MiB there, ${mib(back.bytes)} MiB back; stood still for ${there.downtimeMs} and ${back.downtimeMs} ms; ${JSON.stringify(there.phases)}`,
  );
  expect(back.bytes).toBeLessThan(there.bytes / 2);
  expect(await vmOf(here, vm)).toMatchObject({ home: there.from, host: there.from });
  await expectUnharmed(subject, back);
  await finish(here, subject);
});

fullTest(
  'a guest with a dirty rate above the bandwidth is copied as files after its time limit, as permitted, with the predicted time',
  async () => {
    const subject = await working(here);
    const { vm } = subject;
    const { host } = await vmOf(here, vm);
    // The time for which its memory is copied in vain, and a little more: suspended, it doesn't get older.
    const write = 'timeout 10 sh -c "while :; do head -c 8m /dev/urandom >/dev/shm/written; done"';
    const start = { execute: 'guest-exec', arguments: { path: '/bin/sh', arg: ['-c', write] } };
    await onHost(here, host, ['virsh', '-q', 'qemu-agent-command', vm, JSON.stringify(start)]);
    const mend = await limitNetwork(
      here.site.hosts.filter(({ id }) => id === host),
      48,
    );
    const etas: number[] = [];
    let migration: MigrationAnswer;
    try {
      const { id } = await move(here, vm, { ifNotConverging: 'cold', convergeWithinS: 5 });
      const over = moveOver(here, id).then((ended) => ended.id);
      do {
        migration = await readMove(here, id);
        const isCopying = migration.phases.at(-1)?.name === 'copy' && migration.progress !== null;
        if (isCopying && migration.progress!.etaS !== null) etas.push(migration.progress!.etaS);
      } while ((await Promise.race([over, delay(100)])) !== id);
      migration = await readMove(here, id);
    } finally {
      await mend();
    }
    expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', mode: 'cold', error: null });
    const phases = Object.fromEntries(migration.phases.map(({ name, seconds }) => [name, seconds ?? 0]));
    expect(Object.keys(phases)).toEqual(expect.arrayContaining(['preCopy', 'suspend', 'copy', 'restore']));
    expect(phases.preCopy).toBeGreaterThanOrEqual(5);
    expect(etas.length).toBeGreaterThan(0);
    console.log(`ETA ${[...new Set(etas)].join(', ')} s; ${JSON.stringify(migration.phases)}`);
    await expectUnharmed(subject, migration);
    await finish(here, subject);
  },
);

fullTest('further disks of a VM move with it: after it while it runs, and as files', async () => {
  const look = 'dd if=/dev/vdc iflag=direct bs=512 count=1 status=none | head -n 1 >/dev/ttyS0';
  const order = {
    name: 'laden',
    image: 'debian-12',
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 32 },
    extraDisksMiB: [16],
    firstBoot: [
      'echo a load for the journey | dd of=/dev/vdc oflag=direct conv=sync bs=512 status=none',
      `setsid sh -c 'while sleep 0.5; do ${look}; done' </dev/null >/dev/null 2>&1 &`,
    ],
  };
  const { id } = (await here.client.callWithRetry<{ id: string }>('POST', '/v1/vms', order)).body;
  const state = async () => (await vmOf(here, id)).state;
  await expect.poll(state, { timeout: 180_000 }).toBe('running');
  for (const mode of ['live', 'cold'] as const) {
    const moved = await moveOver(here, (await move(here, id, { mode, moveDisk: true })).id);
    expect(moved, JSON.stringify(moved)).toMatchObject({ state: 'succeeded', mode, error: null });
    expect(await vmOf(here, id)).toMatchObject({ home: moved.to, host: moved.to });
    // What it reads now comes from the disk that moved with it.
    const console = async () => (await here.client.callWithRetry<string>('GET', `/v1/vms/${id}/console`)).body;
    await expect.poll(console, { timeout: 60_000 }).toContain('a load for the journey');
    expect(await onHost(here, moved.to!, ['ls', `/var/lib/berth/vms/${id}`])).toContain('extra-0.raw');
    expect(await onHost(here, moved.from, ['sh', '-c', `ls /var/lib/berth/vms/${id} 2>&1 || true`])).not.toContain('extra-0');
  }
  await here.client.callWithRetry('DELETE', `/v1/vms/${id}`);
  await expect.poll(state, { timeout: 60_000 }).toBe('removed');
});
