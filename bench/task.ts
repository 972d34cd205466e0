import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../drivers/host/run-process.ts';
import { nsenterArgv } from '../infra/site/host/host.ts';
import type { TaskAnswer } from '../test/site/client.ts';
import { onHost, openSite, type TestSite } from '../test/site/the-site.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

const pollMs = 200;
const inputBytes = 10 * 10 ** 6;
const spec = { image: 'debian-12', resources: { vcpus: 1, memoryMiB: 256, diskMiB: 512 } };
const command = ['sh', '-c', 'mkdir -p out && sha256sum in/data >out/sum'];

/**
 * `task.overhead`: a small task with 10 MB of input on a warm site, against bench/bare-task.sh, which issues the same
 * commands on the same host without orchestration. The two alternate, so that both run under the same machine load; the
 * boot is subtracted from both.
 */
export async function benchTask({ runs }: BenchOptions): Promise<void> {
  const count = Math.max(runs ?? 9, 3);
  const test = await openSite(1);
  try {
    const file = await test.client.upload('data', randomBytes(inputBytes));
    // Keeps the owner's network on the host, and is the source of the domain XML.
    const idle = await test.client.submit({ ...spec, command: ['sleep', '3600'], timeoutS: 3600 });
    const holder = await test.client.until(idle.id, ['running']);
    const bare = await prepareBare(test, holder, file);
    const ours: Timing[] = [];
    const theirs: Timing[] = [];
    for (let round = -1; round < count; round += 1) {
      const pair = [await oneTask(test, file), await bare()] as const;
      logProgress(
        `run ${round + 1}: task ${pair[0].total - pair[0].boot} ms, bare ${pair[1].total - pair[1].boot} ms without boot${round < 0 ? ' (warm-up)' : ''}`,
      );
      if (round < 0) continue;
      ours.push(pair[0]);
      theirs.push(pair[1]);
    }
    const withoutBoot = (timings: Timing[]) => median(timings.map(({ total, boot }) => total - boot)) / 1000;
    printFigure('task.overhead', withoutBoot(ours), 's', withoutBoot(theirs), {
      runs: count,
      boot: { value: median(ours.map(({ boot }) => boot)) / 1000, baseline: median(theirs.map(({ boot }) => boot)) / 1000 },
      steps: medians(ours),
      baselineSteps: medians(theirs),
    });
  } finally {
    await test.stop();
  }
}

/** Durations in milliseconds. */
interface Timing {
  total: number;
  boot: number;
  steps: Record<string, number>;
}

async function oneTask(test: TestSite, file: string): Promise<Timing> {
  const beganMs = Date.now();
  const { id } = await test.client.submit({ ...spec, command, inputs: [{ path: 'in/data', file }], outputs: ['out/sum'] });
  // Its end is what the API says of it: how soon a client looks again is not the task's. Each look takes time from the guest.
  const task = await test.client.over(id, 180, pollMs);
  const total = Date.parse(task.finishedAt!) - beganMs;
  if (task.state !== 'succeeded') throw new Error(`${id} is ${task.state}: ${JSON.stringify(task.error)}`);
  const steps: Record<string, number> = {};
  for (const { step, startedAt, endedAt } of task.timeline)
    steps[step] = (steps[step] ?? 0) + Date.parse(endedAt!) - Date.parse(startedAt);
  return { total, boot: steps.boot!, steps };
}

async function prepareBare(test: TestSite, holder: TaskAnswer, file: string): Promise<() => Promise<Timing>> {
  const host = test.site.hosts[0]!;
  const vm = holder.vms[0]!;
  const xml = await onHost(test, host.id, ['virsh', '-q', 'dumpxml', vm, '--migratable']);
  const image = /<backingStore[^>]*>\s*<format[^>]*\/>\s*<source file='([^']+)'/.exec(xml)?.[1];
  const bridge = /<source bridge='([^']+)'/.exec(xml)?.[1];
  if (image === undefined || bridge === undefined) throw new Error(`no image or bridge in the domain's XML: ${xml}`);
  const gateway = /inet ([0-9.]+)\/([0-9]+)/.exec(await onHost(test, host.id, ['ip', '-4', '-o', 'addr', 'show', 'dev', bridge]));
  if (gateway === null) throw new Error(`bridge ${bridge} has no address`);
  const staging = `/var/lib/berth/staging`;
  await onHost(test, host.id, ['mkdir', '-p', staging]);
  const root = join(test.home, 'hosts', host.id, 'staging');
  await writeFile(join(root, 'bare.xml'), asTemplate(xml));
  await writeFile(join(root, 'bare.key'), test.key);
  const script = fileURLToPath(new URL('./bare-task.sh', import.meta.url));
  // Far from the addresses that the ledger allocates.
  const address = `${gateway[1]!.replace(/\.\d+$/, '.250')}/${gateway[2]!}`;
  const repository = test.site.ready.api.replace('127.0.0.1', test.site.hosts[0]!.address.replace(/\.\d+$/, '.1'));
  const argv = nsenterArgv(host.pid()!, [
    script,
    `${staging}/bare.xml`,
    image,
    address,
    gateway[1]!,
    repository,
    `${staging}/bare.key`,
    file,
  ]);
  return async () => JSON.parse(await run(argv, { deadlineMs: 120_000 })) as Timing;
}

/** Replaces what differs between VMs by placeholders; everything else remains as Berth defined it. */
function asTemplate(xml: string): string {
  return xml
    .replace(/<name>[^<]*<\/name>/, '<name>@NAME@</name>')
    .replace(/<uuid>[^<]*<\/uuid>/, '<uuid>@UUID@</uuid>')
    .replace(/<mac address='[^']*'\/>/, "<mac address='@MAC@'/>")
    .replace(/<target dev='bt[^']*'\/>/, "<target dev='@TAP@'/>")
    .replace(/<source file='[^']*\/disk\.qcow2'(?=[^>]*>\s*<backingStore)/, "<source file='@OVERLAY@'")
    .replace(/<source file='[^']*\/data\.raw'/, "<source file='@DATA@'")
    .replace(/<log file='[^']*'/, "<log file='@WORK@/console.log'")
    .replace(/<source mode='bind' path='[^']*\/([^/']+)'\/>/g, "<source mode='bind' path='@WORK@/$1'/>");
}

function medians(timings: Timing[]): Record<string, number> {
  const steps = Object.keys(timings[0]!.steps);
  return Object.fromEntries(steps.map((step) => [step, median(timings.map((timing) => timing.steps[step]!)) / 1000]));
}
