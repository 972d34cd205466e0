import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createHostActivities } from '../../activities/host/index.ts';
import { watchDomains } from '../../activities/host/site/watch-domains.ts';
import type { HostActivities } from '../../contracts/host.ts';
import { createFakeHost, type FakeHost } from '../../drivers/fake/host.ts';
import { createFakeRepository } from '../../drivers/fake/repository.ts';
import { systemClock } from '../../drivers/host/clock.ts';
import type { Clock } from '../../drivers/ports/clock.ts';
import type { VmId } from '../../model/ids.ts';
import type { DomainCondition } from '../../model/vm.ts';
import { newAttempt } from './attempt.ts';
import { imageOf, requestsOf, vmOf } from './requests.ts';

/** What a host's worker observes of domains, and when it reports them. */
const repository = createFakeRepository();
let host: FakeHost;
let activities: HostActivities;
let stop: (() => Promise<void>) | null = null;

beforeEach(() => {
  host = createFakeHost({ id: 'host1', repository });
  activities = createHostActivities(host.ports);
});
afterEach(async () => {
  await stop?.();
  stop = null;
});

const call = <A extends unknown[], R>(act: (...args: A) => Promise<R>, ...args: A): Promise<R> => newAttempt().run(act, ...args);

async function running() {
  const vm = { ...vmOf(imageOf(repository)), onReboot: 'restart' as const };
  await call(activities.stageIn, requestsOf(repository, vm).stageIn);
  await call(activities.ensureRunning, vm);
  return vm;
}

async function conditionOf(id: VmId): Promise<DomainCondition | null> {
  return (await call(activities.observeDomains, [id]))[0]?.condition ?? null;
}

/** @returns what was reported, a list a report */
function watch(clock: Clock = systemClock): VmId[][] {
  const reports: VmId[][] = [];
  const aborting = new AbortController();
  const watching = watchDomains(host.ports, {
    report: async (ids) => void reports.push(ids),
    signal: aborting.signal,
    clock,
  });
  stop = async () => {
    aborting.abort();
    await watching;
  };
  return reports;
}

describe('a domain', () => {
  it.each([
    ['poweredOff', (id: VmId) => host.powerOff(id)],
    ['crashed', (id: VmId) => host.crashDomain(id)],
    ['hostRestarted', () => host.restartMachine()],
  ] as const)('that has ended: %s, and how long ago', async (cause, end) => {
    const { id } = await running();
    expect(await conditionOf(id)).toEqual({ kind: 'running', answers: true });
    end(id);
    await host.ports.clock.sleep(60_000);
    const condition = await conditionOf(id);
    expect(condition).toMatchObject({ kind: 'gone', cause });
    expect(Math.round(((condition as { agoMs: number }).agoMs ?? 0) / 1000)).toBe(60);
  });

  it('is paused by its owner, who asked for it, or by somebody else', async () => {
    const vm = await running();
    host.changeDomain(vm.id, { state: 'paused', reason: 'user' });
    expect(await conditionOf(vm.id)).toEqual({ kind: 'paused', by: 'operator' });
    await call(activities.pauseVm, vm);
    expect(await conditionOf(vm.id)).toEqual({ kind: 'paused', by: 'owner' });
    await call(activities.resumeVm, vm);
    host.changeDomain(vm.id, { state: 'paused', reason: 'I/O error' });
    expect(await conditionOf(vm.id)).toEqual({ kind: 'paused', by: 'ioError' });
    host.changeDomain(vm.id, { state: 'pmsuspended', reason: 'unknown' });
    expect(await conditionOf(vm.id)).toEqual({ kind: 'paused', by: 'guest' });
  });

  it.each(['migrating', 'saving', 'starting up', 'shutting down', 'snapshot'])(
    'between two states has none: %s',
    async (reason) => {
      const { id } = await running();
      host.changeDomain(id, { state: 'paused', reason });
      expect(await conditionOf(id)).toBeNull();
    },
  );

  it('that Berth has suspended or removed has not ended by itself', async () => {
    const vm = await running();
    await call(activities.suspendVm, vm);
    expect(await conditionOf(vm.id)).toBeNull();
    await call(activities.removeVm, vm.id, vm.generation);
    expect(await conditionOf(vm.id)).toBeNull();
  });
});

describe('the watch', () => {
  it('reports what was so before it began, then each change that Berth did not order, and nothing twice', async () => {
    const [off, crashes, lives] = [await running(), await running(), await running()];
    host.powerOff(off.id);
    const reports = watch();
    await expect.poll(() => reports.flat().sort()).toEqual([off.id, crashes.id, lives.id].sort());
    reports.length = 0;
    host.crashDomain(crashes.id);
    await expect.poll(() => reports).toEqual([[crashes.id]]);
    host.changeDomain(lives.id, { state: 'paused', reason: 'user' });
    await expect.poll(() => reports).toEqual([[crashes.id], [lives.id]]);
    host.changeDomain(lives.id, { state: 'running', reason: 'unpaused' });
    await expect.poll(() => reports).toEqual([[crashes.id], [lives.id], [lives.id]]);
  });

  it('does not report what Berth does itself, nor a pause of a moment', async () => {
    const vm = await running();
    const reports = watch();
    await expect.poll(() => reports).toEqual([[vm.id]]);
    host.changeDomain(vm.id, { state: 'paused', reason: 'user' });
    await delay(300);
    host.changeDomain(vm.id, { state: 'running', reason: 'unpaused' });
    await call(activities.suspendVm, vm);
    await call(activities.restoreVm, { vm, diskHostAddress: null });
    const other = await running();
    await call(activities.removeVm, other.id, other.generation);
    await call(activities.removeVm, vm.id, vm.generation);
    await delay(1500);
    expect(reports).toEqual([[vm.id]]);
  });

  // The round of another VM's change, or of an operation's end, may ask in between.
  it('reports the end of a pause of a moment that the site was answered', async () => {
    const vm = await running();
    const reports = watch();
    await expect.poll(() => reports).toEqual([[vm.id]]);
    host.changeDomain(vm.id, { state: 'pmsuspended', reason: 'unknown' });
    expect(await conditionOf(vm.id)).toEqual({ kind: 'paused', by: 'guest' });
    host.changeDomain(vm.id, { state: 'running', reason: 'unpaused' });
    await expect.poll(() => reports, { timeout: 10_000 }).toEqual([[vm.id], [vm.id]]);
  });

  it('asks the agents of running guests now and then, and reports one that does not answer, and that it does again', async () => {
    const [silent, other] = [await running(), await running()];
    // A minute passes in a moment.
    let aheadMs = 0;
    const reports = watch({ ...systemClock, nowMs: () => Date.now() + aheadMs });
    await expect.poll(() => reports.flat().sort()).toEqual([silent.id, other.id].sort());
    reports.length = 0;
    const answersOf = async () => ((await conditionOf(silent.id)) as { answers?: boolean }).answers;
    for (const answers of [false, true]) {
      if (answers) host.unresponsive.delete(silent.id);
      else host.unresponsive.add(silent.id);
      aheadMs += 61_000;
      await expect.poll(() => reports, { timeout: 20_000 }).toEqual([[silent.id]]);
      expect(await answersOf()).toBe(answers);
      reports.length = 0;
    }
  });

  it('notices without the hypervisor what it did not say', async () => {
    const vm = await running();
    const reports = watch();
    await expect.poll(() => reports).toEqual([[vm.id]]);
    host.watchers.clear();
    host.powerOff(vm.id);
    await expect.poll(() => reports, { timeout: 10_000 }).toEqual([[vm.id], [vm.id]]);
  });
});
