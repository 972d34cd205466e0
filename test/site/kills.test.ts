import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../../infra/site/until.ts';
import { fullTest } from '../full-test.ts';
import { onSharedSite } from './shared-site.ts';
import { expectNothingLeft, expectOneCompletion, sha256, type TestSite } from './the-site.ts';

const bytes = randomBytes(48 * 2 ** 20);
let here: TestSite;
let input: string;
let limitMs: number;
onSharedSite(async (site) => {
  here = site;
  input = await here.client.upload('bytes', bytes);
  limitMs = await withinAMinute();
});

const phases = ['stagingIn', 'starting', 'running', 'stagingOut'] as const;
/** Three seconds of sleep, and a boot without hardware virtualization on two busy cores. */
const usualMs = 15_000;
const order = () => ({
  image: 'debian-12',
  // The command counts its starts: at most one, whatever is killed.
  command: ['sh', '-c', 'echo started; cp in/bytes copy; sleep 3; echo ended'],
  inputs: [{ path: 'in/bytes', file: input }],
  outputs: ['copy'],
  resources: { vcpus: 1, memoryMiB: 192, diskMiB: 256 },
});

/** A minute where an undisturbed task of the kind takes its usual time; proportionally longer on a slower machine. */
async function withinAMinute(): Promise<number> {
  const { id } = await here.client.submit(order());
  const { createdAt, finishedAt } = await here.client.over(id);
  return 60_000 * Math.max(1, (Date.parse(finishedAt!) - Date.parse(createdAt)) / usualMs);
}

type Phase = (typeof phases)[number];
/** The process to kill, by the host of the task. */
type Victim = (host: string) => string;
const victims = {
  'the host worker': (host) => `${host}/worker`,
  'the control worker': () => 'control',
  'the API': () => 'api',
  Temporal: () => 'temporal',
  libvirtd: (host) => `${host}/libvirtd`,
} satisfies Record<string, Victim>;

/**
 * One task for each kill: a process is killed when the task reaches the phase. The next task is submitted as soon as the
 * killed process serves again, so that later kills also meet the tasks of earlier ones.
 */
async function killed(kills: readonly (readonly [Phase, keyof typeof victims])[]): Promise<void> {
  const cases: { id: string; what: string; againMs: number }[] = [];
  for (const [phase, victim] of kills) {
    const { id } = await here.client.submit(order());
    const task = await here.client.until(id, [phase, 'succeeded']);
    const child = here.site.child(victims[victim](task.hosts[0]!));
    const restarts = child.restarts();
    child.kill('SIGKILL');
    await child.untilReadyAgain(restarts, 30_000);
    cases.push({ id, what: `${victim} killed while ${phase}`, againMs: Date.now() });
  }
  for (const { id, what, againMs } of cases) {
    const task = await here.client.over(id);
    expect(task, `${what}: ${JSON.stringify(task.error)}`).toMatchObject({ state: 'succeeded', exitCode: 0 });
    const laterMs = Date.parse(task.finishedAt!) - againMs;
    expect(laterMs, `ms from the restart to the end, ${what}`).toBeLessThan(limitMs);
    expect(task.outputs).toMatchObject([{ path: 'copy', sizeBytes: bytes.length, sha256: sha256(bytes) }]);
    expect((await here.client.callWithRetry<string>('GET', `/v1/tasks/${id}/log`)).body).toBe('started\nended\n');
    await expectOneCompletion(here.client, task);
  }
  await expectNothingLeft(here);
}

/** What holds the state of a task, each once: sagas/killed-host and killed-control cover every step in between. */
test('SIGKILL of each part that holds the state of a task', () =>
  killed([
    ['starting', 'Temporal'],
    ['running', 'the host worker'],
    ['stagingOut', 'the control worker'],
  ]));

for (const victim of Object.keys(victims) as (keyof typeof victims)[])
  fullTest(`SIGKILL of ${victim} in each phase`, () => killed(phases.map((phase) => [phase, victim])));

/** A SIGABRT ends a process as a fault of V8 does, and its supervisor tells the next one. */
fullTest('a step under which its worker aborts twice fails its task, and the host goes on', async () => {
  const { id } = await here.client.submit(order());
  const { hosts, vms } = await here.client.until(id, ['stagingOut', 'succeeded']);
  const host = hosts[0]!;
  const worker = here.site.child(victims['the host worker'](host));
  const marks = join(here.home, 'hosts', host, 'steps.json');
  for (const alone of [false, true]) {
    const restarts = worker.restarts();
    await until(`stageOut to run, alone: ${alone}`, 60_000, async () => {
      const open = JSON.parse(await readFile(marks, 'utf8')) as { vmId: string; step: string; open: boolean; alone: boolean }[];
      return open.some((mark) => mark.vmId === vms[0] && mark.step === 'stageOut' && mark.open && mark.alone === alone);
    });
    worker.kill('SIGABRT');
    await worker.untilReadyAgain(restarts, 30_000);
  }
  const task = await here.client.over(id);
  expect(task).toMatchObject({ state: 'failed', error: { code: 'worker-crashed' } });
  await expectOneCompletion(here.client, task);
  const next = await here.client.submit({ ...order(), command: ['true'], inputs: [], outputs: [] });
  expect(await here.client.over(next.id)).toMatchObject({ state: 'succeeded', exitCode: 0 });
  await expectNothingLeft(here);
});
