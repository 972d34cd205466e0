import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { nsenterArgv } from '../infra/site/host/host.ts';
import { openSite, type TestSite } from '../test/site/the-site.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

const spec = { image: 'debian-12', command: ['true'], resources: { vcpus: 1, memoryMiB: 256, diskMiB: 512 } };
const pollMs = 200;
const templateDeadlineMs = 120_000;

interface Timing {
  total: number;
  steps: Record<string, number>;
}

/**
 * `create.warm` and `create.cold`: the time from the acceptance of a POST until the guest's agent has answered with its
 * new identity, on a host that has the image cached; the baseline is bench/bare-vm.ts, the same bare commands on the same
 * host. The variants alternate, so that all run under the same machine load. `best` and `ofBest` are bare commands with
 * every known optimization.
 */
export async function benchCreate({ runs }: BenchOptions): Promise<void> {
  const count = Math.max(runs ?? 15, 3);
  const test = await openSite(1);
  try {
    const host = test.site.hosts[0]!;
    // Keeps the owner's network on the host, and is the VM that boots cold because no template exists yet.
    const holder = await test.client.submit({ ...spec, command: ['sleep', '3600'], timeoutS: 3600 });
    await test.client.until(holder.id, ['running']);
    const template = await waitForTemplate(join(test.home, 'hosts', host.id, 'images'));
    const bare = openBare(host.pid()!, template);
    const warm = await measureInterleaved(test, bare, 'warm', ['plain', 'best'], count);
    await retireTemplate(template);
    const cold = await measureInterleaved(test, bare, 'cold', ['cold'], count);
    await bare.end();
    const seconds = (timings: Timing[] | undefined) => median(totals(timings!)) / 1000;
    const short = (value: number) => Number(value.toPrecision(4));
    const [ours, best, booted] = [seconds(warm.ours), seconds(warm.theirs[1]), seconds(cold.ours)];
    printFigure('create.warm', ours, 's', seconds(warm.theirs[0]), {
      runs: count,
      ofCold: short(ours / booted),
      best: short(best),
      ofBest: short(ours / best),
      steps: medians(warm.ours),
      baselineSteps: medians(warm.theirs[0]!),
      bestSteps: medians(warm.theirs[1]!),
    });
    printFigure('create.cold', booted, 's', seconds(cold.theirs[0]), {
      runs: count,
      steps: medians(cold.ours),
      baselineSteps: medians(cold.theirs[0]!),
    });
  } finally {
    await test.stop();
  }
}

interface TemplateLocation {
  image: string;
  key: string;
  folder: string;
}

async function waitForTemplate(images: string): Promise<TemplateLocation> {
  for (const endMs = Date.now() + templateDeadlineMs; Date.now() < endMs; await delay(100))
    for (const image of await readdir(images)) {
      const folder = join(images, image, 'templates');
      const keys = await readdir(folder).catch(() => []);
      const key = keys.find((name) => !name.includes('.'));
      if (key !== undefined) return { image, key, folder };
    }
  throw new Error(`no template was made in ${templateDeadlineMs / 1000} s`);
}

/** Marks the template as failed too often: the following VMs boot cold and request no new template. */
async function retireTemplate({ folder, key }: TemplateLocation): Promise<void> {
  await writeFile(
    join(folder, `${key}.trouble`),
    JSON.stringify({ failures: 3, why: 'retired by the benchmark', retired: true }),
  );
  await rename(join(folder, key), join(folder, `${key}.kept`));
}

type BareKind = 'plain' | 'best' | 'cold';

interface Bare {
  create(kind: BareKind): Promise<Timing>;
  end(): Promise<void>;
}

function openBare(pid: number, { image, key }: TemplateLocation): Bare {
  const script = fileURLToPath(new URL('./bare-vm.ts', import.meta.url));
  const [program, ...args] = nsenterArgv(pid, [process.execPath, script, image, key, '10.254.254.2/24', '10.254.254.1']);
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] }) as unknown as ChildProcessWithoutNullStreams;
  const ended = new Promise((resolve) => child.once('close', resolve));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async create(kind) {
      child.stdin.write(`${kind}\n`);
      const { value, done } = await lines.next();
      if (done === true) throw new Error('the bare commands failed');
      return JSON.parse(value) as Timing;
    },
    async end() {
      child.stdin.end();
      await ended;
    },
  };
}

async function measureInterleaved(test: TestSite, bare: Bare, kind: 'warm' | 'cold', bareKinds: BareKind[], count: number) {
  const ours: Timing[] = [];
  const theirs: Timing[][] = bareKinds.map(() => []);
  for (let round = -1; round < count; round += 1) {
    const vm = await create(test, kind);
    const printed = [`VM ${Math.round(vm.total)} ms`];
    if (round >= 0) ours.push(vm);
    for (const [i, one] of bareKinds.entries()) {
      const timing = await bare.create(one);
      printed.push(`bare (${one}) ${Math.round(timing.total)} ms`);
      if (round >= 0) theirs[i]!.push(timing);
    }
    logProgress(`${kind} ${round + 1}: ${printed.join(', ')}${round < 0 ? ' (warm-up)' : ''}`);
  }
  return { ours, theirs };
}

async function create({ client }: TestSite, kind: 'warm' | 'cold'): Promise<Timing> {
  const { id } = await client.submit(spec);
  const accepted = Date.now();
  // Each look takes time from the guest that starts.
  const task = await client.over(id, 180, pollMs);
  if (task.state !== 'succeeded') throw new Error(`${id} is ${task.state}: ${JSON.stringify(task.error)}`);
  const vm = (await client.call<{ boot: { kind: string; why: string | null } }>('GET', `/v1/vms/${task.vms[0]}`)).body;
  if (vm.boot.kind !== kind) throw new Error(`${task.vms[0]} came to life ${vm.boot.kind} (${vm.boot.why}), not ${kind}`);
  const steps: Record<string, number> = {};
  for (const { step, startedAt, endedAt } of task.timeline) steps[step] = Date.parse(endedAt!) - Date.parse(startedAt);
  const booted = task.timeline.find(({ step }) => step === 'boot')!.endedAt!;
  const { stageIn = 0, create: made = 0, boot = 0 } = steps;
  return { total: Date.parse(booted) - accepted, steps: { stageIn, create: made, boot } };
}

const totals = (timings: Timing[]): number[] => timings.map(({ total }) => total);

function medians(timings: Timing[]): Record<string, number> {
  const steps = Object.keys(timings[0]!.steps);
  return Object.fromEntries(
    steps.map((step) => [step, Number((median(timings.map((one) => one.steps[step]!)) / 1000).toPrecision(4))]),
  );
}
