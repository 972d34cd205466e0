import { readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { TaskAnswer } from '../test/site/client.ts';
import { leftovers, onHost, openSite, type TestSite } from '../test/site/the-site.ts';
import { logProgress, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

const spec = { image: 'debian-12', resources: { vcpus: 1, memoryMiB: 256, diskMiB: 64 } };
const siblings = 10;
const deadlineMs = 180_000;

interface VmAnswer {
  boot: { kind: string };
}

/**
 * `templates.memory`: host memory that ten idle VMs from one template use, by PSS, against ten that booted cold.
 * `templates.churn`: VMs created and removed in sequence on three hosts; its value counts what remains of them, and bytes
 * of disk.
 */
export async function benchTemplates({ runs }: BenchOptions): Promise<void> {
  await memory();
  await churn(Math.max(runs ?? 50, 3));
}

async function memory(): Promise<void> {
  const test = await openSite(1, { BERTH_VCPU_RATIO: '8' });
  try {
    await ensureTemplate(test, 'host1');
    const warm = await pssOf(test, 'warm');
    const folder = await templatesFolder(test, 'host1');
    const key = (await readdir(folder)).find((name) => !name.includes('.'))!;
    await writeFile(
      join(folder, `${key}.trouble`),
      JSON.stringify({ failures: 3, why: 'retired by the benchmark', retired: true }),
    );
    await rename(join(folder, key), join(folder, `${key}.kept`));
    const cold = await pssOf(test, 'cold');
    printFigure('templates.memory', warm, 'MiB', cold, { vms: siblings });
  } finally {
    await test.stop();
  }
}

async function templatesFolder(test: TestSite, host: string): Promise<string> {
  const images = join(test.home, 'hosts', host, 'images');
  const [image] = await readdir(images);
  return join(images, image!, 'templates');
}

/** Starts a first VM and waits for the template that it requests. */
async function ensureTemplate(test: TestSite, host: string): Promise<void> {
  await test.client.over((await test.client.submit({ ...spec, command: ['true'] })).id);
  for (const endMs = Date.now() + deadlineMs; Date.now() < endMs; await delay(250))
    if ((await templatesOn(test, host)) !== '' && (await leftovers(test)).length === 0) return;
  throw new Error(`no template was made on ${host} in ${deadlineMs / 1000} s`);
}

/** PSS of all QEMU processes together, once the guests are idle. */
async function pssOf(test: TestSite, kind: string): Promise<number> {
  const { id } = await test.client.submit({ ...spec, command: ['sleep', '3600'], timeoutS: 3600, nodes: siblings });
  const task = await test.client.until(id, ['running'], deadlineMs / 1000);
  for (const vm of task.vms) {
    const { boot } = (await test.client.call<VmAnswer>('GET', `/v1/vms/${vm}`)).body;
    if (boot.kind !== kind) throw new Error(`${vm} came to life ${boot.kind}, not ${kind}`);
  }
  await delay(5000);
  const script = 'for p in $(pidof qemu-system-x86_64); do cat /proc/$p/smaps_rollup; done';
  const text = await onHost(test, 'host1', ['sh', '-c', script]);
  const sizes = [...text.matchAll(/^Pss:\s+(\d+) kB$/gm)].map((match) => Number(match[1]));
  if (sizes.length !== siblings) throw new Error(`${sizes.length} QEMU processes, where ${siblings} were expected`);
  await test.client.call('DELETE', `/v1/tasks/${id}`);
  await test.client.over(id);
  const pssMiB = sizes.reduce((sum, size) => sum + size, 0) / 1024;
  logProgress(`${siblings} ${kind} VMs: ${Math.round(pssMiB)} MiB`);
  return pssMiB;
}

/** Starts as many VMs at a time as there are hosts: a gang is spread, so each host makes and removes its share. */
async function churn(count: number): Promise<void> {
  const test = await openSite(3);
  const hosts = test.site.hosts.length;
  const round = async (nodes: number): Promise<TaskAnswer> =>
    test.client.over((await test.client.submit({ ...spec, command: ['true'], nodes })).id, deadlineMs / 1000);
  try {
    await round(hosts);
    await waitForTemplates(test);
    const before = await diskBytes(test);
    const boots: Record<string, number> = {};
    let succeeded = 0;
    for (let made = 0; made < count; made += hosts) {
      const task = await round(Math.min(hosts, count - made));
      if (task.state === 'succeeded') succeeded += task.vms.length;
      for (const [index, vm] of task.vms.entries()) {
        const { boot } = (await test.client.call<VmAnswer>('GET', `/v1/vms/${vm}`)).body;
        const place = `${boot.kind} on ${task.hosts[index]}`;
        boots[place] = (boots[place] ?? 0) + 1;
      }
    }
    await waitForCleanup(test);
    const left = await leftovers(test);
    const after = await diskBytes(test);
    printFigure('templates.churn', left.length, 'things left', null, {
      vms: count,
      succeeded,
      boots,
      diskBytes: after.used - before.used,
      // Tombstones remain for a day, so that no late attempt recreates a removed VM.
      tombstoneBytes: after.tombstones - before.tombstones,
    });
  } finally {
    await test.stop();
  }
}

/** Each host makes a template after its first VM. */
async function waitForTemplates(test: TestSite): Promise<void> {
  const made = () => Promise.all(test.site.hosts.map(({ id }) => templatesOn(test, id)));
  for (const endMs = Date.now() + deadlineMs; Date.now() < endMs; await delay(500))
    if ((await made()).every((listed) => listed !== '') && (await leftovers(test)).length === 0) return;
  throw new Error(`no template on each host in ${deadlineMs / 1000} s`);
}

const templatesOn = (test: TestSite, host: string): Promise<string> =>
  onHost(test, host, ['sh', '-c', 'ls -d /var/lib/berth/images/*/templates/*x*/ 2>/dev/null || true']);

/** Waits until no removal is in progress, or until the deadline. */
async function waitForCleanup(test: TestSite): Promise<void> {
  for (const endMs = Date.now() + deadlineMs; Date.now() < endMs; await delay(500))
    if ((await leftovers(test)).length === 0) return;
}

interface DiskUse {
  used: number;
  tombstones: number;
}

async function diskBytes(test: TestSite): Promise<DiskUse> {
  const sum: DiskUse = { used: 0, tombstones: 0 };
  for (const { id } of test.site.hosts) {
    const text = await onHost(test, id, ['sh', '-c', 'cd /var/lib/berth; du -s --block-size=1 .; du -s --block-size=1 removed']);
    const sizes = new Map(
      text
        .trim()
        .split('\n')
        .map((line) => line.split('\t').toReversed() as [string, string]),
    );
    const tombstones = Number(sizes.get('removed') ?? 0);
    sum.tombstones += tombstones;
    sum.used += Number(sizes.get('.')) - tombstones;
  }
  return sum;
}
