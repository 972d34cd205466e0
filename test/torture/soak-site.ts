import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { nothingLeft } from '../site/subjects.ts';
import { expectOneCompletion, onHost, openSite, type TestSite } from '../site/the-site.ts';
import { type Choices, choicesOf } from './choices.ts';
import type { TortureOptions } from './options.ts';

/** Guests of one processor, on two. */
const lanes = 2;
const hosts = 2;
/** A life takes about six seconds here. */
const momentsMs = 6000;
const shape = { vcpus: 1, memoryMiB: 192, diskMiB: 32 };
const growth = 1.5;
const descriptorGrowth = 20;

type Victim = (choices: Choices) => string;
const onSomeHost =
  (part: string): Victim =>
  (choices) =>
    `host${1 + choices.below(hosts)}/${part}`;
const victims: Record<string, Victim | null> = {
  'the host worker': onSomeHost('worker'),
  libvirtd: onSomeHost('libvirtd'),
  ganesha: onSomeHost('ganesha'),
  'the control worker': () => 'control',
  'the API': () => 'api',
  Temporal: () => 'temporal',
  PostgreSQL: () => 'postgres',
  'a deletion': null,
  nothing: null,
};

/**
 * Creations and deletions of tasks and VMs on real hosts, each life with a process that is killed, or a deletion, at a random
 * moment. At the end nothing is left on any host or reserved in the ledger, each task has reported one end, and disk use,
 * memory and descriptors of the site's processes are what they were.
 */
export async function soakSite({ runs, seed }: TortureOptions): Promise<boolean> {
  const test = await openSite(hosts);
  const startedMs = Date.now();
  const tally: Record<string, number> = {};
  const wrong: string[] = [];
  try {
    await warmUp(test);
    const before = await measure(test);
    let next = 0;
    const lane = async (): Promise<void> => {
      for (let run = next++; run < runs; run = next++) {
        const choices = choicesOf(seed, run);
        const what = choices.one(Object.keys(victims));
        try {
          const end = await live(test, choices, what, run);
          tally[end] = (tally[end] ?? 0) + 1;
          console.log(JSON.stringify({ run, what, end, ok: true }));
        } catch (error) {
          wrong.push(String(run));
          console.log(JSON.stringify({ run, what, ok: false, error: (error as Error).message }));
        }
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
    await nothingLeft(test);
    // Both are compared in the same state: fresh processes after their caches have filled.
    await warmUp(test);
    const after = await measure(test);
    const flat = isFlat(before, after);
    console.log(JSON.stringify({ before, after }));
    const seconds = Math.round((Date.now() - startedMs) / 1000);
    console.log(JSON.stringify({ name: 'torture.soak-site', seed, runs, wrong: wrong.length, ...tally, flat, seconds }));
    return wrong.length === 0 && flat;
  } finally {
    await test.stop();
  }
}

/** A task on each host: its image, its template. */
async function warmUp(test: TestSite): Promise<void> {
  for (const _ of [1, 2]) {
    const { id } = await test.client.submit({ image: 'debian-12', command: ['true'], nodes: hosts, resources: shape });
    await test.client.over(id);
  }
  await nothingLeft(test);
}

async function strike(test: TestSite, choices: Choices, what: string, path: string): Promise<void> {
  await delay(choices.below(momentsMs));
  const victim = victims[what]!;
  if (what === 'nothing') return;
  if (victim === null) return void (await test.client.callWithRetry('DELETE', path));
  const child = test.site.child(victim(choices));
  const restarts = child.restarts();
  child.kill('SIGKILL');
  await child.untilReadyAgain(restarts, 60_000);
}

async function live(test: TestSite, choices: Choices, what: string, run: number): Promise<string> {
  if (choices.below(2) === 0) {
    const { id } = await test.client.submit({
      image: 'debian-12',
      command: ['sh', '-c', 'echo started; sleep 1; echo done >out'],
      outputs: ['out'],
      resources: shape,
    });
    const [task] = await Promise.all([test.client.over(id, 300), strike(test, choices, what, `/v1/tasks/${id}`)]);
    await expectOneCompletion(test.client, task);
    if (task.state !== 'succeeded' && what !== 'a deletion')
      throw new Error(`${id} ${task.state}: ${JSON.stringify(task.error)}`);
    const log = (await test.client.callWithRetry<string>('GET', `/v1/tasks/${id}/log`)).body;
    if (task.state === 'succeeded' && log !== 'started\n') throw new Error(`${id} logged ${JSON.stringify(log)}`);
    return `task ${task.state}`;
  }
  const order = { name: `soak-${run}`, image: 'debian-12', resources: shape, lease: { durationS: 3600 } };
  const headers = { 'idempotency-key': crypto.randomUUID() };
  const made = await test.client.callWithRetry<{ id: string }>('POST', '/v1/vms', order, headers);
  if (made.status !== 202) throw new Error(`POST /v1/vms: ${made.status} ${JSON.stringify(made.body)}`);
  const path = `/v1/vms/${made.body.id}`;
  const vm = async () => (await test.client.callWithRetry<{ state: string; hostKey: string | null }>('GET', path)).body;
  const until = async (isSo: (one: Awaited<ReturnType<typeof vm>>) => boolean): Promise<void> => {
    for (const deadline = Date.now() + 300_000; !isSo(await vm()); await delay(100))
      if (Date.now() > deadline) throw new Error(`${path} after ${what}: ${JSON.stringify(await vm())}`);
  };
  await Promise.all([
    until(({ state, hostKey }) => state === 'removed' || (state === 'running' && hostKey !== null)),
    strike(test, choices, what, path),
  ]);
  const end = (await vm()).state === 'removed' ? 'vm removed early' : 'vm made';
  if (end === 'vm removed early' && what !== 'a deletion') throw new Error(`${path} was undone after ${what}`);
  await test.client.callWithRetry('DELETE', path);
  await until(({ state }) => state === 'removed');
  return end;
}

interface Measured {
  /** Of all hosts: what their folders of VMs, staged inputs and coldly copied files take. */
  diskMiB: number;
  rssMiB: Record<string, number>;
  descriptors: Record<string, number>;
}

async function measure(test: TestSite): Promise<Measured> {
  const names = ['api', 'control', 'postgres', ...test.site.hosts.flatMap(({ id }) => [`${id}/worker`, `${id}/libvirtd`])];
  const measured: Measured = { diskMiB: 0, rssMiB: {}, descriptors: {} };
  for (const name of names) {
    const pid = test.site.child(name).pid();
    if (pid === null) throw new Error(`${name} does not run`);
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    measured.rssMiB[name] = Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) / 1024);
    measured.descriptors[name] = (await readdir(`/proc/${pid}/fd`)).length;
  }
  for (const { id } of test.site.hosts) {
    const used = await onHost(test, id, ['sh', '-c', 'du -smc /var/lib/berth/vms /var/lib/berth/staging | tail -n 1 | cut -f 1']);
    measured.diskMiB += Number(used);
  }
  return measured;
}

function isFlat(before: Measured, after: Measured): boolean {
  const names = Object.keys(before.rssMiB);
  return (
    after.diskMiB <= before.diskMiB + 1 &&
    names.every((name) => after.rssMiB[name]! <= before.rssMiB[name]! * growth) &&
    names.every((name) => after.descriptors[name]! <= before.descriptors[name]! + descriptorGrowth)
  );
}
