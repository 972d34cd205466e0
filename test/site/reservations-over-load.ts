import type { HostAnswer, TaskAnswer } from './client.ts';
import type { TestSite } from './the-site.ts';

/** Reservations that take every host of a site, over best-effort work that fills it. */
export interface Trial {
  reservations: number;
  /** From the submission to the first start, and from one start to the next, in seconds, at least. */
  firstInS: number;
  everyS: number;
  durationS: number;
  /** How long each best-effort command works. */
  workS: number;
  /** Called that many seconds before the start of a reservation. */
  disturb?: { beforeS: number; act: (reservation: number) => Promise<void> };
}

export interface Outcome {
  /** When each reservation's guests first answered for the work, after its start; by reservation, the slowest node. */
  lateS: number[];
  /** Of what was promised, how much the commands got. */
  satisfaction: number;
  work: { tasks: number; right: number; suspensions: number; startedTwice: number };
}

interface Promised extends TaskAnswer {
  promise: { startAt: string; endAt: string };
}

const image = 'debian-12';
const ticks = (n: number) => `i=0; while [ $i -lt ${n} ]; do echo $i; i=$((i+1)); sleep 1; done >out/ticks`;
const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));

export async function reservationsOverLoad(test: TestSite, trial: Trial): Promise<Outcome> {
  const hosts = (await test.operator.insist<{ items: HostAnswer[] }>('GET', '/v1/hosts')).body.items;
  const vcpus = Math.min(...hosts.map(({ capacity }) => capacity.vcpus));
  const works = await startWork(test, trial, hosts.length, Math.max(1, Math.floor(vcpus / 2)));
  const promised: Promised[] = [];
  const leadS = await leadOf(test, hosts.length, vcpus);
  const firstMs = Date.now() + Math.max(trial.firstInS, leadS + 15) * 1000;
  const everyMs = Math.max(trial.everyS, leadS + trial.durationS + 20) * 1000;
  for (let n = 0; n < trial.reservations; n += 1)
    promised.push(await reserve(test, hosts.length, vcpus, firstMs + n * everyMs, trial.durationS));
  for (const [n, { promise }] of promised.entries()) {
    if (trial.disturb === undefined) break;
    await wait(Date.parse(promise.startAt) - trial.disturb.beforeS * 1000 - Date.now());
    await trial.disturb.act(n);
  }
  const ends: Kept[] = [];
  for (const one of promised) ends.push(await kept(test, one, trial.durationS));
  const work = { tasks: works.length, right: 0, suspensions: 0, startedTwice: 0 };
  for (const id of works) {
    const task = await test.client.over(id, 300);
    work.suspensions += task.timeline.filter(({ step }) => step === 'suspend').length;
    if (task.state === 'succeeded' && (await hasItsOutput(test, task, trial.workS))) work.right += 1;
    const log = (await test.client.insist<string>('GET', `/v1/tasks/${id}/log`)).body;
    if (log.split('\n').filter((line) => line === 'started').length !== 1) work.startedTwice += 1;
  }
  return {
    lateS: ends.map(({ lateS }) => lateS),
    satisfaction: ends.reduce((sum, { gotS }) => sum + gotS, 0) / (trial.durationS * ends.length),
    work,
  };
}

/** Two tasks a host, and two more that wait: all of them would take longer than it is to the first reservation. */
async function startWork(test: TestSite, { workS }: Trial, hosts: number, vcpus: number): Promise<string[]> {
  const spec = {
    image,
    command: ['sh', '-c', `echo started; mkdir -p out; ${ticks(workS)}; echo ended`],
    outputs: ['out/ticks'],
    resources: { vcpus, memoryMiB: 128, diskMiB: 32 },
    lease: { kind: 'bestEffort', durationS: workS * 4 },
    timeoutS: workS * 4,
  };
  const ids: string[] = [];
  for (let n = 0; n < hosts * 2 + 2; n += 1) ids.push((await test.client.submit(spec)).id);
  for (const id of ids.slice(0, hosts * 2)) await test.client.until(id, ['running'], 120);
  return ids;
}

/** How soon VMs on all hosts could be there, as the site has measured it: a slow machine's reservations are further apart. */
async function leadOf(test: TestSite, nodes: number, vcpus: number): Promise<number> {
  const order = { image, nodes, resources: { vcpus, memoryMiB: 128, diskMiB: 32 }, lease: { kind: 'immediate', durationS: 10 } };
  const { body } = await test.client.insist<{ startAt: string | null }>('POST', '/v1/quotes', order);
  if (body.startAt === null) throw new Error(`nothing can be reserved: ${JSON.stringify(body)}`);
  return (Date.parse(body.startAt) - Date.now()) / 1000;
}

async function reserve(test: TestSite, nodes: number, vcpus: number, startMs: number, durationS: number): Promise<Promised> {
  return (await test.client.submit({
    image,
    nodes,
    // Says the time of the guest for as long as it is let.
    command: ['sh', '-c', 'while :; do date +%s.%N; sleep 0.2; done'],
    resources: { vcpus, memoryMiB: 128, diskMiB: 32 },
    lease: { kind: 'reservation', startAt: new Date(startMs).toISOString(), durationS },
    timeoutS: 3600,
  })) as Promised;
}

interface Kept {
  lateS: number;
  gotS: number;
}

async function kept(test: TestSite, { id, promise }: Promised, durationS: number): Promise<Kept> {
  const task = await test.client.over(id, 600);
  if (task.error?.code !== 'lease-expired') throw new Error(`${id} ended otherwise than by its lease: ${JSON.stringify(task)}`);
  const startMs = Date.parse(promise.startAt);
  const run = task.timeline.find(({ step }) => step === 'run')!;
  const fromMs = Math.max(startMs, Date.parse(run.startedAt));
  const toMs = Math.min(Date.parse(promise.endAt), Date.parse(run.endedAt!));
  const first = await Promise.all(
    task.vms.map(async (_, node) => {
      const { body } = await test.client.insist<string>('GET', `/v1/tasks/${id}/log?node=${node}`);
      return Number(body.toString().split('\n')[0]);
    }),
  );
  return { lateS: Math.max(...first) - startMs / 1000, gotS: Math.min(durationS, (toMs - fromMs) / 1000) };
}

async function hasItsOutput(test: TestSite, task: TaskAnswer, workS: number): Promise<boolean> {
  const output = task.outputs.find(({ path }) => path === 'out/ticks');
  if (output === undefined) return false;
  const expected = Array.from({ length: workS }, (_, i) => `${i}\n`).join('');
  return (await test.client.download(output.file)).toString() === expected;
}
