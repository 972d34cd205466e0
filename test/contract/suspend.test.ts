import { beforeEach, describe, expect, it } from 'vitest';
import { createHostActivities } from '../../activities/host/index.ts';
import type { HostActivities } from '../../contracts/host.ts';
import { createFakeHost, type FakeHost, type FakeRun } from '../../drivers/fake/host.ts';
import { createFakeRepository, type FakeRepository } from '../../drivers/fake/repository.ts';
import type { HostPorts } from '../../drivers/ports/host-ports.ts';
import type { VmSpec } from '../../model/vm.ts';
import { newAttempt } from './attempt.ts';
import { imageOf, requestsOf, vmOf } from './requests.ts';
import { codeOf } from './suite.ts';

let repository: FakeRepository;
let host: FakeHost;
let activities: HostActivities;
let vm: VmSpec;

const hour = 3600_000;
const long = (durationMs: number): FakeRun => ({ exitCode: 0, durationMs, log: 'x', files: { 'out/a': 'a' } });

function open(run: FakeRun = long(50), onReboot: VmSpec['onReboot'] = 'restart'): void {
  repository = createFakeRepository();
  host = createFakeHost({ id: 'host1', repository, run: () => run });
  activities = createHostActivities(host.ports);
  vm = { ...vmOf(imageOf(repository)), onReboot };
}

function call<A extends unknown[], R>(act: (...args: A) => Promise<R>, ...args: A): Promise<R> {
  return newAttempt().run(act, ...args);
}

async function toRunning(): Promise<void> {
  await call(activities.ensureImage, vm.image);
  await call(activities.stageIn, requestsOf(repository, vm).stageIn);
  await call(activities.ensureRunning, vm);
}

const at = (generation: number): VmSpec => ({ ...vm, generation });
const memoryOf = () => [...host.memories.keys()].map((path) => path.split('/').at(-1));

beforeEach(() => open());

describe('a VM that is suspended', () => {
  it('has no domain and one file with its memory, and resumes from it with the present time in its clock', async () => {
    await toRunning();
    const booted = host.domains.get(vm.id)!.bootCount;
    expect((await call(activities.suspendVm, at(2))).bytes).toBeGreaterThan(0);
    expect([host.domains.size, memoryOf()]).toEqual([0, ['memory.save']]);
    expect((await host.ports.store.read(vm.id))?.suspended).toMatchObject({ complete: true });
    await host.ports.clock.sleep(hour);
    await call(activities.restoreVm, { vm: at(3), diskHostAddress: null });
    const domain = host.domains.get(vm.id)!;
    expect([domain.status.state, domain.bootCount, memoryOf()]).toEqual(['running', booted, []]);
    expect(domain.identity?.timeMs).toBeGreaterThan(hour + domain.config.memoryMiB);
    expect(host.ports.clock.nowMs() - domain.identity!.timeMs).toBeLessThan(1000);
  });

  it('may be suspended and restored repeatedly, and each step may be repeated', async () => {
    await toRunning();
    for (let generation = 2; generation < 8; generation += 2) {
      await call(activities.suspendVm, at(generation));
      await call(activities.suspendVm, at(generation));
      await call(activities.restoreVm, { vm: at(generation + 1), diskHostAddress: null });
      await call(activities.restoreVm, { vm: at(generation + 1), diskHostAddress: null });
      expect(await codeOf(call(activities.suspendVm, at(generation)))).toBe('stale-generation');
      expect([host.domains.size, memoryOf()]).toEqual([1, []]);
    }
  });

  it('is removed with its memory', async () => {
    await toRunning();
    await call(activities.suspendVm, at(2));
    await call(activities.removeDomain, vm.id, 3);
    await call(activities.removeDisks, vm.id, 3);
    expect(host.leftovers()).toEqual([]);
  });

  it('is lost where its domain died before all of it was written, and is not started from incomplete memory', async () => {
    await toRunning();
    const { clock } = host.ports;
    const sleep = clock.sleep.bind(clock);
    clock.sleep = async (ms, signal) => {
      if (host.domains.get(vm.id)?.status.reason === 'saving') host.crashDomain(vm.id);
      return sleep(ms, signal);
    };
    expect(await codeOf(call(activities.suspendVm, at(2)))).toBe('guest-crashed');
    expect(await codeOf(call(activities.restoreVm, { vm: at(3), diskHostAddress: null }))).toBe('guest-crashed');
    expect(host.domains.size).toBe(0);
    // It can be booted from its disks, and what was written of its memory is gone then.
    await call(activities.ensureRunning, at(4));
    expect([host.domains.size, memoryOf()]).toEqual([1, []]);
    expect((await host.ports.store.read(vm.id))?.suspended).toBeNull();
  });

  it('continues to run where its memory cannot be written', async () => {
    await toRunning();
    const { hypervisor } = host.ports;
    const { BerthError } = await import('../../model/errors.ts');
    hypervisor.save = async () => {
      throw new BerthError('disk-full', 'no room');
    };
    expect(await codeOf(call(activities.suspendVm, at(2)))).toBe('disk-full');
    expect(host.domains.get(vm.id)?.status.state).toBe('running');
    expect((await host.ports.store.read(vm.id))?.suspended).toBeNull();
    expect(await codeOf(call(activities.restoreVm, { vm: at(3), diskHostAddress: null }))).toBe('fine');
  });

  it('that ran after its restoration and died is never started from the old memory again', async () => {
    await toRunning();
    await call(activities.suspendVm, at(2));
    const { memory } = host.ports.store.paths(vm.id);
    const kept = structuredClone(host.memories.get(memory)!);
    await call(activities.restoreVm, { vm: at(3), diskHostAddress: null });
    host.crashDomain(vm.id);
    // As after a power cut before the removal of the file was on the disk.
    host.memories.set(memory, kept);
    expect(await codeOf(call(activities.restoreVm, { vm: at(4), diskHostAddress: null }))).toBe('guest-crashed');
    expect(await codeOf(call(activities.suspendVm, at(4)))).toBe('guest-crashed');
    expect(host.domains.size).toBe(0);
  });
});

describe('a command', () => {
  it('continues after a suspension, once, and its time is the time that its guest ran', async () => {
    open(long(20_000), 'destroy');
    await toRunning();
    const { run } = requestsOf(repository, vm);
    const request = { ...run, timeoutS: 40 };
    const before = codeOf(call(activities.runCommand, request));
    await expect.poll(() => host.jobsStarted.get(vm.id)).toBe(1);
    await call(activities.suspendVm, at(2));
    expect(await before).toBe('vm-suspended');
    expect(await codeOf(call(activities.runCommand, { ...request, vm: at(2) }))).toBe('vm-suspended');
    await host.ports.clock.sleep(hour);
    await call(activities.restoreVm, { vm: at(3), diskHostAddress: null });
    const result = await call(activities.runCommand, { ...request, vm: at(3) });
    expect(result).toMatchObject({ exitCode: 0, timedOut: false });
    expect(Date.parse(result.endedAt) - Date.parse(result.startedAt)).toBeGreaterThan(hour);
    expect(host.jobsStarted.get(vm.id)).toBe(1);
  });

  it('is not treated as silent while its guest is paused, nor is the pause counted', async () => {
    open(long(60_000), 'destroy');
    await toRunning();
    const { run } = requestsOf(repository, vm);
    const running = call(activities.runCommand, { ...run, timeoutS: 70 });
    await expect.poll(() => host.jobsStarted.get(vm.id)).toBe(1);
    host.domains.get(vm.id)!.status = { state: 'paused', reason: 'user' };
    await host.ports.store.writeDurably({ ...(await host.ports.store.read(vm.id))!, pausedSinceMs: host.ports.clock.nowMs() });
    const pausedMs = host.ports.clock.nowMs();
    await expect.poll(() => host.ports.clock.nowMs() - pausedMs, { timeout: 60_000 }).toBeGreaterThan(400_000);
    const record = (await host.ports.store.read(vm.id))!;
    await host.ports.store.writeDurably({ ...record, pausedSinceMs: null, idleMs: host.ports.clock.nowMs() - pausedMs });
    host.domains.get(vm.id)!.status = { state: 'running', reason: 'unpaused' };
    expect(await running).toMatchObject({ exitCode: 0, timedOut: false });
  });
});

describe('a VM that is paused', () => {
  it('executes nothing, and resumes with the present time in its clock', async () => {
    await toRunning();
    await call(activities.pauseVm, at(2));
    await call(activities.pauseVm, at(2));
    expect(host.domains.get(vm.id)?.status.state).toBe('paused');
    await host.ports.clock.sleep(hour);
    await call(activities.resumeVm, at(4));
    await call(activities.resumeVm, at(4));
    expect(host.domains.get(vm.id)?.status.state).toBe('running');
    expect(host.domains.get(vm.id)?.identity?.timeMs).toBeGreaterThan(hour);
    expect((await host.ports.store.read(vm.id))?.idleMs).toBeGreaterThanOrEqual(hour);
  });
});

describe('a reboot', () => {
  it('gives the guest its identity again', async () => {
    await toRunning();
    await call(activities.rebootVm, at(2));
    expect(host.domains.get(vm.id)).toMatchObject({ bootCount: 2, identity: { hostname: vm.name } });
  });

  it('uses the reset button where the guest does not react', async () => {
    await toRunning();
    host.ports.guest.reboot = async () => undefined;
    await call(activities.rebootVm, at(2));
    expect(host.domains.get(vm.id)).toMatchObject({ bootCount: 2, identity: { hostname: vm.name } });
  });

  it('of a guest that has one command to run is refused', async () => {
    open(long(50), 'destroy');
    await toRunning();
    expect(await codeOf(call(activities.rebootVm, at(2)))).toBe('conflict');
    expect(host.domains.get(vm.id)?.bootCount).toBe(1);
  });
});

/** Ports whose process is killed at its nth call, before or after the effect of the call. */
function mortal(ports: HostPorts, dieAt: number, after: boolean): { ports: HostPorts; died: Promise<void> } {
  let calls = 0;
  const { promise: died, resolve: die } = Promise.withResolvers<void>();
  const never = new Promise<never>(() => undefined);
  const wrap = <T extends object>(port: T): T =>
    new Proxy(port, {
      get(target, name) {
        const method = Reflect.get(target, name);
        if (typeof method !== 'function' || name === 'nowMs' || name === 'paths') return method;
        return async (...args: unknown[]) => {
          calls += 1;
          if (calls > dieAt || (calls === dieAt && !after)) {
            die();
            return never;
          }
          const result = await method.apply(target, args);
          if (calls < dieAt) return result;
          die();
          return never;
        };
      },
    });
  const wrapped = Object.fromEntries(Object.entries(ports).map(([name, port]) => [name, wrap(port as object)]));
  return { ports: wrapped as unknown as HostPorts, died };
}

type Step = 'suspendVm' | 'suspendVm of a paused VM' | 'restoreVm' | 'rebootVm' | 'pauseVm' | 'resumeVm';
const steps: [Step, 'running' | 'paused' | null, (activities: HostActivities) => Promise<unknown>][] = [
  ['suspendVm', null, (host) => call(host.suspendVm, at(5))],
  ['suspendVm of a paused VM', null, (host) => call(host.suspendVm, at(5))],
  ['restoreVm', 'running', (host) => call(host.restoreVm, { vm: at(5), diskHostAddress: null })],
  ['rebootVm', 'running', (host) => call(host.rebootVm, at(5))],
  ['pauseVm', 'paused', (host) => call(host.pauseVm, at(5))],
  ['resumeVm', 'running', (host) => call(host.resumeVm, at(5))],
];

describe.each(steps)('%s by a worker that is killed at any line', (step, state, act) => {
  it('ends the same, and leaves a VM that runs or is suspended in between', async () => {
    let deaths = 0;
    for (let dieAt = 1; ; dieAt += 1) {
      const survived: boolean[] = [];
      for (const after of [false, true]) {
        open();
        await toRunning();
        if (step === 'restoreVm') await call(activities.suspendVm, at(4));
        if (step === 'resumeVm' || step === 'suspendVm of a paused VM') await call(activities.pauseVm, at(4));
        const doomed = mortal(host.ports, dieAt, after);
        const attempt = act(createHostActivities(doomed.ports)).then(() => 'survived' as const);
        survived.push((await Promise.race([attempt, doomed.died])) === 'survived');
        const { memory, memoryPartial } = host.ports.store.paths(vm.id);
        const whole = [memory, memoryPartial].some((path) => host.memories.get(path)?.complete === true);
        expect(host.domains.has(vm.id) || whole, `killed at call ${dieAt}`).toBe(true);
        await act(createHostActivities(host.ports));
        expect(host.domains.get(vm.id)?.status.state ?? null, `after a kill at call ${dieAt}`).toBe(state);
        expect(host.memories.size).toBe(state === null ? 1 : 0);
        if (state === null) await call(activities.restoreVm, { vm: at(6), diskHostAddress: null });
      }
      if (survived.every(Boolean)) break;
      deaths += 1;
    }
    expect(deaths).toBeGreaterThan(2);
  });
});
