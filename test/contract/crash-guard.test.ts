import { beforeEach, describe, expect, it } from 'vitest';
import { isCrash } from '../../activities/host/crash-guard.ts';
import { createHostActivities } from '../../activities/host/index.ts';
import type { StageIn } from '../../contracts/host.ts';
import { createFakeHost, type FakeHost } from '../../drivers/fake/host.ts';
import { createFakeRepository } from '../../drivers/fake/repository.ts';
import { newAttempt } from './attempt.ts';
import { imageOf, requestsOf, vmOf } from './requests.ts';
import { codeOf } from './suite.ts';

const forever = new Promise<never>(() => undefined);

describe('a step that ends its worker', () => {
  let host: FakeHost;
  let deadly: StageIn;
  let harmless: StageIn;
  /** VMs whose inputs never arrive while they are in here: then the worker "crashes" with the attempt under way. */
  let hanging: Set<string>;
  let arrived: Set<string>;

  beforeEach(() => {
    const repository = createFakeRepository();
    host = createFakeHost({ id: 'host1', repository });
    const image = imageOf(repository);
    [deadly, harmless] = [vmOf(image), vmOf(image)].map((vm) => requestsOf(repository, vm).stageIn) as [StageIn, StageIn];
    hanging = new Set();
    arrived = new Set();
    const { fetch } = host.ports.inputFetcher;
    host.ports.inputFetcher.fetch = (request, signal) =>
      [...hanging].some((id) => request.destination.includes(id) && arrived.add(id)) ? forever : fetch(request, signal);
  });

  /** A worker that begins these steps, and ends before they do. */
  async function endWithin(steps: StageIn[], crashed: boolean): Promise<void> {
    const { stageIn } = createHostActivities(host.ports, crashed);
    for (const step of steps) hanging.add(step.vm.id);
    for (const step of steps) void newAttempt().run(stageIn, step);
    await expect.poll(() => arrived.size).toBe(steps.length);
    expect(host.stepMarks.filter(({ open }) => open)).toHaveLength(steps.length);
    arrived.clear();
    hanging.clear();
  }
  const stageIn = (step: StageIn, crashed: boolean): Promise<string> =>
    codeOf(newAttempt().run(createHostActivities(host.ports, crashed).stageIn, step));

  it('twice, the second time alone, fails with a code of its own; those that ran beside it do not', async () => {
    await endWithin([deadly, harmless], false);
    await endWithin([deadly], true);
    const { stageIn: next } = createHostActivities(host.ports, true);
    expect(await codeOf(newAttempt().run(next, deadly))).toBe('worker-crashed');
    expect(await codeOf(newAttempt().run(next, harmless))).toBe('fine');
    expect(host.stepMarks.map(({ vmId, crashes }) => [vmId, crashes])).toEqual([[deadly.vm.id, 2]]);
  });

  it('is counted once, also where the next worker ends before it begins anything else', async () => {
    await endWithin([deadly], false);
    await endWithin([harmless], true);
    expect(host.stepMarks.map(({ vmId, open, crashes }) => [vmId, open, crashes])).toEqual([
      [deadly.vm.id, false, 1],
      [harmless.vm.id, true, 0],
    ]);
    await endWithin([harmless], false);
    expect(await stageIn(deadly, false)).toBe('fine');
  });

  it('by a signal from outside, however often, is repeated', async () => {
    for (let time = 0; time < 5; time += 1) await endWithin([deadly], false);
    expect(await stageIn(deadly, false)).toBe('fine');
    expect(host.stepMarks).toEqual([]);
  });

  it('once, and then succeeds, is no suspect any more', async () => {
    await endWithin([deadly], false);
    expect(await stageIn(deadly, true)).toBe('fine');
    expect(host.stepMarks).toEqual([]);
  });

  it('once, runs alone: others wait for it, and it for them', async () => {
    await endWithin([deadly], false);
    const { stageIn: act } = createHostActivities(host.ports, true);
    const content = Promise.withResolvers<void>();
    const { fetch } = host.ports.inputFetcher;
    host.ports.inputFetcher.fetch = async (request, signal) => {
      if (request.destination.includes(deadly.vm.id)) await content.promise;
      return fetch(request, signal);
    };
    const order: string[] = [];
    const suspect = newAttempt()
      .run(act, deadly)
      .then(() => order.push('suspect'));
    await expect.poll(() => host.stepMarks).toMatchObject([{ vmId: deadly.vm.id, alone: true }]);
    const other = newAttempt()
      .run(act, harmless)
      .then(() => order.push('other'));
    const cancelled = newAttempt();
    const waiting = codeOf(cancelled.run(act, { ...harmless, vm: { ...harmless.vm, id: vmOf(harmless.vm.image).id } }));
    cancelled.cancel();
    expect(await waiting).not.toBe('fine');
    content.resolve();
    await Promise.all([suspect, other]);
    expect(order).toEqual(['suspect', 'other']);
  });
});

describe('the end of a worker', () => {
  it.each(['SIGABRT', 'SIGSEGV', 'core-dump ABRT', 'watchdog ABRT', 'oom-kill KILL', 'signal ABRT'])('%s is a crash', (end) =>
    expect(isCrash(end)).toBe(true),
  );
  it.each(['', 'SIGKILL', 'SIGTERM', 'exit 0', 'exit 1', 'success 0', 'signal KILL', 'exit-code 1', 'timeout KILL'])(
    '%j is none',
    (end) => expect(isCrash(end)).toBe(false),
  );
});
