import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { expectNothingLeft, expectOneCompletion, openSite, sha256, type TestSite } from './the-site.ts';

const bytes = randomBytes(48 * 2 ** 20);
let here: TestSite;
let input: string;
let limitMs: number;
beforeAll(async () => {
  here = await openSite();
  input = await here.client.upload('bytes', bytes);
  limitMs = await withinAMinute();
});
afterAll(() => here.stop());

const phases = ['stagingIn', 'starting', 'running', 'stagingOut'] as const;
/** Three seconds of sleep, and a boot without hardware virtualization on two busy cores. */
const usualMs = 15_000;
const order = () => ({
  image: 'debian-12',
  // The command says how often it was started: at most once, whatever dies.
  command: ['sh', '-c', 'echo started; cp in/bytes copy; sleep 3; echo ended'],
  inputs: [{ path: 'in/bytes', file: input }],
  outputs: ['copy'],
  resources: { vcpus: 1, memoryMiB: 256, diskMiB: 256 },
});

/** A minute, where an undisturbed task of the kind takes its usual time; as much longer as this machine is slower. */
async function withinAMinute(): Promise<number> {
  const { id } = await here.client.submit(order());
  const { createdAt, finishedAt } = await here.client.over(id);
  return 60_000 * Math.max(1, (Date.parse(finishedAt!) - Date.parse(createdAt)) / usualMs);
}

/**
 * One task a phase, killed under when it gets there. The next one is submitted as soon as the victim serves again, so
 * that later kills also meet the tasks of earlier ones.
 */
async function killedInEachPhase(victim: (host: string) => string): Promise<void> {
  const cases: { id: string; phase: string; againMs: number }[] = [];
  for (const phase of phases) {
    const { id } = await here.client.submit(order());
    const task = await here.client.until(id, [phase, 'succeeded']);
    const child = here.site.child(victim(task.hosts[0]!));
    const restarts = child.restarts();
    child.kill('SIGKILL');
    await child.untilReadyAgain(restarts, 30_000);
    cases.push({ id, phase, againMs: Date.now() });
  }
  for (const { id, phase, againMs } of cases) {
    const task = await here.client.over(id);
    expect(task, JSON.stringify(task.error)).toMatchObject({ state: 'succeeded', exitCode: 0 });
    const laterMs = Date.parse(task.finishedAt!) - againMs;
    expect(laterMs, `ms from the restart to the end, killed while ${phase}`).toBeLessThan(limitMs);
    expect(task.outputs).toMatchObject([{ path: 'copy', sizeBytes: bytes.length, sha256: sha256(bytes) }]);
    expect((await here.client.insist<string>('GET', `/v1/tasks/${id}/log`)).body).toBe('started\nended\n');
    await expectOneCompletion(here.client, task);
  }
  await expectNothingLeft(here);
}

test('SIGKILL of the host worker in each phase', () => killedInEachPhase((host) => `${host}/worker`));
test('SIGKILL of the control worker in each phase', () => killedInEachPhase(() => 'control'));
test('SIGKILL of the API in each phase', () => killedInEachPhase(() => 'api'));
test('SIGKILL of Temporal in each phase', () => killedInEachPhase(() => 'temporal'));
test('SIGKILL of libvirtd in each phase', () => killedInEachPhase((host) => `${host}/libvirtd`));
