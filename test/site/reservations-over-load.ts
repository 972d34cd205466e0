import { setTimeout as delay } from 'node:timers/promises';
import type { HostAnswer, TaskAnswer } from './client.ts';
import { onHost, openSite, type TestSite } from './the-site.ts';

/**
 * Reservations that take every host of a site, one after the other, over best-effort work that fills it. From the
 * submission to the first start, and from one end to the next start, at least this many seconds pass.
 */
const firstInS = 35;
const gapS = 30;
const durationS = 35;
/** How long each best-effort command works. */
const workS = 45;
/** How long before a start a process is killed. */
const beforeS = 25;

export interface Outcome {
  /** When the last of each reservation's guests printed its first line, after its start. */
  lateS: number[];
  /** The part of the promised time that the commands got. */
  satisfaction: number;
  /** `undisturbed`: of the tasks that ran when the reservations were made, the number that were never suspended. */
  work: { tasks: number; right: number; suspensions: number; undisturbed: number; startedTwice: number };
}

interface Promised extends TaskAnswer {
  promise: { startAt: string; endAt: string };
}

const vms = { image: 'debian-12', resources: { vcpus: 1, memoryMiB: 128, diskMiB: 32 } };
const ticks = (n: number) => `i=0; while [ $i -lt ${n} ]; do echo $i; i=$((i+1)); sleep 1; done >out/ticks`;

/** Each host holds one VM: the trial measures time, and an emulated VM needs a processor of its own to be in time. */
export const openTightSite = (): Promise<TestSite> => openSite(3, { BERTH_VCPU_RATIO: '0.01' });

/**
 * @param victims one for each reservation: the part of the site that is killed (SIGKILL) while it is pending; null: none
 */
export async function reservationsOverLoad(test: TestSite, victims: readonly (string | null)[]): Promise<Outcome> {
  const { items } = (await test.operator.callWithRetry<{ items: HostAnswer[] }>('GET', '/v1/hosts')).body;
  const hosts = items.length;
  await warmUp(test, hosts);
  const works = await startWork(test, hosts);
  const leadS = await leadOf(test, hosts);
  const firstMs = Date.now() + Math.max(firstInS, leadS + 15) * 1000;
  const everyMs = (durationS + Math.max(gapS, leadS + 15)) * 1000;
  const promised: Promised[] = [];
  for (const n of victims.keys()) promised.push(await reserve(test, hosts, firstMs + n * everyMs));
  for (const [n, victim] of victims.entries()) {
    if (victim === null) continue;
    await delay(Math.max(0, Date.parse(promised[n]!.promise.startAt) - beforeS * 1000 - Date.now()));
    const child = test.site.child(victim);
    const restarts = child.restarts();
    child.kill('SIGKILL');
    await child.untilReadyAgain(restarts, 30_000);
  }
  const ends: Kept[] = [];
  for (const one of promised) ends.push(await kept(test, one));
  const work = { tasks: works.length, right: 0, suspensions: 0, undisturbed: 0, startedTwice: 0 };
  for (const [n, id] of works.entries()) {
    const task = await test.client.over(id, 300);
    const suspensions = task.timeline.filter(({ step }) => step === 'suspend').length;
    work.suspensions += suspensions;
    if (n < hosts && suspensions === 0) work.undisturbed += 1;
    if (task.state === 'succeeded' && (await hasItsOutput(test, task))) work.right += 1;
    const log = (await test.client.callWithRetry<string>('GET', `/v1/tasks/${id}/log`)).body;
    if (log.split('\n').filter((line) => line === 'started').length !== 1) work.startedTwice += 1;
  }
  return {
    lateS: ends.map(({ lateS }) => lateS),
    satisfaction: ends.reduce((sum, { gotS }) => sum + gotS, 0) / (durationS * ends.length),
    work,
  };
}

/**
 * As on a site that has been in use: every host has a template of these VMs, and the ledger has measured how soon they
 * start.
 */
async function warmUp(test: TestSite, hosts: number): Promise<void> {
  const one = { ...vms, nodes: hosts, command: ['true'], timeoutS: 600 };
  const run = async (): Promise<void> => {
    const { id, state, error } = await test.client.over((await test.client.submit(one)).id, 300);
    if (state !== 'succeeded') throw new Error(`${id} ${state}: ${JSON.stringify(error)}`);
  };
  await run();
  for (const { id } of test.site.hosts) {
    const list = () => onHost(test, id, ['sh', '-c', 'ls -d /var/lib/berth/images/*/templates/1x128-*/ 2>/dev/null || true']);
    for (const endMs = Date.now() + 180_000; (await list()) === ''; await delay(250))
      if (Date.now() > endMs) throw new Error(`${id} has made no template within three minutes`);
  }
  for (let n = 0; n < 3; n += 1) await run();
}

/** One task for each host, and one more that waits. */
async function startWork(test: TestSite, hosts: number): Promise<string[]> {
  const spec = {
    ...vms,
    command: ['sh', '-c', `echo started; mkdir -p out; ${ticks(workS)}; echo ended`],
    outputs: ['out/ticks'],
    lease: { kind: 'bestEffort', durationS: workS * 4 },
    timeoutS: workS * 4,
  };
  const ids: string[] = [];
  for (let n = 0; n < hosts + 1; n += 1) ids.push((await test.client.submit(spec)).id);
  for (const id of ids.slice(0, hosts)) await test.client.until(id, ['running'], 120);
  return ids;
}

/**
 * How soon VMs on all hosts could be ready, as the site has measured it: the reservations of a slow machine are further
 * apart.
 */
async function leadOf(test: TestSite, nodes: number): Promise<number> {
  const order = { ...vms, nodes, lease: { kind: 'immediate', durationS: 10 } };
  const { body } = await test.client.callWithRetry<{ startAt: string | null }>('POST', '/v1/quotes', order);
  if (body.startAt === null) throw new Error(`nothing can be reserved: ${JSON.stringify(body)}`);
  return (Date.parse(body.startAt) - Date.now()) / 1000;
}

async function reserve(test: TestSite, nodes: number, startMs: number): Promise<Promised> {
  return (await test.client.submit({
    ...vms,
    nodes,
    // Prints the time of the guest for as long as it runs.
    command: ['sh', '-c', 'while :; do date +%s.%N; sleep 0.2; done'],
    lease: { kind: 'reservation', startAt: new Date(startMs).toISOString(), durationS },
    timeoutS: durationS,
  })) as Promised;
}

/** A lease is no shorter than timeoutS: of a command that begins at once, the guest ends the time a moment before the lease does. */
const endsOfTime = ['lease-expired', 'task-timeout'];

interface Kept {
  lateS: number;
  gotS: number;
}

async function kept(test: TestSite, { id, promise }: Promised): Promise<Kept> {
  const task = await test.client.over(id, 600);
  if (!endsOfTime.includes(task.error?.code ?? ''))
    throw new Error(`${id} ended before its time was over: ${JSON.stringify(task)}`);
  const first = await Promise.all(
    task.vms.map(async (_, node) => {
      const { body } = await test.client.callWithRetry<string>('GET', `/v1/tasks/${id}/log?node=${node}`);
      return Number(body.toString().split('\n')[0]) * 1000;
    }),
  );
  const startMs = Date.parse(promise.startAt);
  const run = task.timeline.find(({ step }) => step === 'run')!;
  const fromMs = Math.max(startMs, ...first);
  const toMs = Math.min(Date.parse(promise.endAt), Date.parse(run.endedAt!));
  return { lateS: (Math.max(...first) - startMs) / 1000, gotS: Math.min(durationS, (toMs - fromMs) / 1000) };
}

async function hasItsOutput(test: TestSite, task: TaskAnswer): Promise<boolean> {
  const output = task.outputs.find(({ path }) => path === 'out/ticks');
  if (output === undefined) return false;
  const expected = Array.from({ length: workS }, (_, i) => `${i}\n`).join('');
  return (await test.client.download(output.file)).toString() === expected;
}
