import { setTimeout as delay } from 'node:timers/promises';
import { openLedger } from '../../ledger/client.ts';
import { setSchedulable } from '../../test/site/drains.ts';
import { answersAgent, lastWords } from '../../test/site/subjects.ts';
import { onHost, openSite, type TestSite } from '../../test/site/the-site.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import type { BenchOptions } from '../options.ts';
import { openProbe, PingTimeout } from '../probe.ts';
import { quiesce } from '../quiesce.ts';
import type { Bare } from './migrate-bare.ts';
import { endBare, makeBare, moveBare } from './migrate-bare.ts';
import type { DomainDescription, GuestKind, Move } from './migrate-ours.ts';
import { addressAt, dirtying, endOurs, makeOurs, moveOurs } from './migrate-ours.ts';

const kinds: GuestKind[] = [
  { name: '128', memoryMiB: 128, command: 'sleep 3600' },
  { name: '256', memoryMiB: 256, command: 'sleep 3600' },
  { name: '512', memoryMiB: 512, command: 'sleep 3600' },
  { name: 'dirty256', memoryMiB: 256, command: dirtying },
];

/** A guest continues to boot after its agent's first answer, and must be idle when measured. */
const idleAfterMs = 20_000;

/**
 * `migrate.total.<MiB>`, `migrate.downtime.<MiB>`, `migrate.imageBytes`: a VM that migrates between two hosts and back,
 * alternating with bare `virsh migrate` of a VM made from the same description. The total is the time from the request to
 * the answer that it has ended; the downtime is the longest gap in a 10 ms ping from the third host. `--modes` selects
 * some of 128, 256, 512 and dirty256.
 */
export async function benchMigrate({ runs, modes }: BenchOptions): Promise<void> {
  const count = Math.max(runs ?? 7, 3);
  const unknown = (modes ?? []).filter((name) => kinds.every((kind) => kind.name !== name));
  if (unknown.length > 0) throw new Error(`--modes: there is no ${unknown.join(', ')}`);
  const wanted = kinds.filter(({ name }) => modes?.includes(name) ?? true);
  // Capacity for two VMs on each host, beside one from which a template is made meanwhile.
  const test = await openSite(3, { BERTH_VCPU_RATIO: '8' });
  try {
    // Keeps the image and the owner's network on every host.
    const holder = await test.client.submit({
      image: 'debian-12',
      command: ['sleep', '3600'],
      nodes: 3,
      resources: { vcpus: 1, memoryMiB: 128, diskMiB: 64 },
      timeoutS: 3600,
      lease: { kind: 'bestEffort', durationS: 7200 },
    });
    await test.client.until(holder.id, ['running']);
    const imageBytes: number[] = [];
    for (const kind of wanted) imageBytes.push(...(await measure(test, kind, count)));
    printFigure('migrate.imageBytes', Math.max(...imageBytes), 'bytes', null, { migrations: imageBytes.length });
  } finally {
    await test.stop();
  }
}

/** One of the two VMs that migrate alternately. */
interface Side {
  name: 'ours' | 'bare';
  move(): Promise<Move>;
  locate(): Promise<{ host: string; name: string; console: string }>;
  /** Replaces a dead guest with a new one. */
  replaceGuest(): Promise<void>;
}

/**
 * Limit for one kind and both sides together. Under emulation a guest sometimes dies after a migration, with either side
 * (docs/migration.md).
 */
const maxDeaths = 5;

/** Prints the figures of one kind of guest. @returns the image bytes that each of our migrations transferred */
async function measure(test: TestSite, kind: GuestKind, count: number): Promise<number[]> {
  const hosts = test.site.hosts.map(({ id }) => id);
  await setSchedulable(test, hosts, true);
  let vm = await makeOurs(test, kind);
  let bare = await makeBare(test, vm, kind);
  const probe = await openProbe(test, test.site.hosts[2]!.id, vm.bridge, addressAt(vm.network, 251));
  const ledger = openLedger(test.site.databaseUrl, 1);
  const sides: Side[] = [
    {
      name: 'ours',
      move: () => moveOurs(test, ledger, vm, probe),
      locate: () => whereOurs(test, vm),
      async replaceGuest() {
        await endOurs(test, vm);
        vm = await makeOurs(test, kind);
      },
    },
    {
      name: 'bare',
      move: () => moveBare(test, bare, probe),
      locate: async () => whereBare(test, bare),
      async replaceGuest() {
        await endBare(test, bare);
        bare = await makeBare(test, vm, kind);
      },
    },
  ];
  await setSchedulable(test, hosts, false);
  await quiesce(test, expectedDomains);
  await delay(idleAfterMs);
  const rounds: { ours: Move; bare: Move }[] = [];
  const died = { ours: 0, bare: 0 };
  for (let round = -1; round < count; ) {
    const pair = await moveBoth(test, sides, died);
    if (pair === null) {
      if (died.ours + died.bare > maxDeaths) throw new Error(`too many guests died to measure anything: ${JSON.stringify(died)}`);
      continue;
    }
    const parts = pair.ours.phases.map(({ name, seconds }) => `${name} ${Math.round((seconds ?? 0) * 1000)}`).join(', ');
    const moveText = ({ totalMs, downtimeMs }: Move) => `${Math.round(totalMs)} ms, gap ${Math.round(downtimeMs)} ms`;
    logProgress(
      `${kind.name} run ${round + 1}: Berth ${moveText(pair.ours)}; bare ${moveText(pair.bare)}${round < 0 ? ' (warm-up)' : ''}; ${parts}`,
    );
    if (round >= 0) rounds.push(pair);
    round += 1;
  }
  const of = (side: 'ours' | 'bare', what: 'totalMs' | 'downtimeMs') => median(rounds.map((pair) => pair[side][what]));
  const detail = { runs: count, died };
  printFigure(`migrate.total.${kind.name}`, of('ours', 'totalMs') / 1000, 's', of('bare', 'totalMs') / 1000, detail);
  printFigure(`migrate.downtime.${kind.name}`, of('ours', 'downtimeMs'), 'ms', of('bare', 'downtimeMs'), detail);
  await probe.close();
  await ledger.$disconnect();
  await endBare(test, bare);
  await endOurs(test, vm);
  return rounds.map(({ ours }) => ours.imageBytes);
}

/** The VMs that hold the image, and the two that migrate. */
const expectedDomains = 3 + 2;

/** Migrates each side in turn, the other's guest at low priority; null when a guest died, which is counted and replaced. */
async function moveBoth(
  test: TestSite,
  sides: readonly Side[],
  died: Record<Side['name'], number>,
): Promise<{ ours: Move; bare: Move } | null> {
  const moved: Partial<Record<Side['name'], Move>> = {};
  for (const side of sides)
    try {
      for (const one of sides) await setNice(test, one, one === side ? 0 : 19);
      moved[side.name] = await side.move();
    } catch (error) {
      if (!(error instanceof PingTimeout) || !(await hasDied(test, side))) throw error;
      died[side.name] += 1;
      await side.replaceGuest();
      return null;
    }
  return { ours: moved.ours!, bare: moved.bare! };
}

/**
 * Sets the priority of all threads of a side's QEMU: on two processors a busy guest would take one from the side being
 * measured.
 */
async function setNice(test: TestSite, side: Side, nice: number): Promise<void> {
  const { host, name } = await side.locate();
  const script = `for thread in /proc/$(cat /run/libvirt/qemu/${name}.pid)/task/*; do renice -n ${nice} -p "\${thread##*/}" || test ! -e "$thread"; done`;
  await onHost(test, host, ['sh', '-ec', script]);
}

/** A guest counts as dead when its hypervisor reports it as running and neither its network nor its agent answers. */
async function hasDied(test: TestSite, side: Side): Promise<boolean> {
  const { host, name, console } = await side.locate();
  const state = (await onHost(test, host, ['virsh', '-q', 'domstate', name])).trim();
  if (state !== 'running' || (await answersAgent(test, host, name))) return false;
  logProgress(
    `${name} (${side.name}) has died at ${host}, and a new guest takes its place; its last words: ${await lastWords(test, host, console)}`,
  );
  return true;
}

async function whereOurs(test: TestSite, { id }: DomainDescription) {
  const { host } = (await test.client.callWithRetry<{ host: string }>('GET', `/v1/vms/${id}`)).body;
  return { host, name: id, console: `/var/lib/berth/vms/${id}/console.log` };
}

const whereBare = (test: TestSite, { at, name, folder }: Bare) => ({
  host: test.site.hosts[at]!.id,
  name,
  console: `${folder}/console.log`,
});
