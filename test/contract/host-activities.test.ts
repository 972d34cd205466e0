import { beforeEach, describe, expect, it } from 'vitest';
import { createHostActivities } from '../../activities/host/index.ts';
import type { HostActivities, StagedOut, StageOut } from '../../contracts/host.ts';
import { createFakeHost, type FakeHost, type FakeHostOptions } from '../../drivers/fake/host.ts';
import { createFakeRepository, type FakeRepository } from '../../drivers/fake/repository.ts';
import type { Guest } from '../../drivers/ports/guest.ts';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import type { VmSpec } from '../../model/vm.ts';
import { newAttempt } from './attempt.ts';
import { imageOf, requestsOf, vmOf } from './requests.ts';

let repository: FakeRepository;
let host: FakeHost;
let activities: HostActivities;
let vm: VmSpec;
let requests: ReturnType<typeof requestsOf>;

function open(options: Partial<FakeHostOptions> = {}, outputs?: string[]): void {
  repository = createFakeRepository();
  host = createFakeHost({ id: 'host1', repository, ...options });
  activities = createHostActivities(host.ports);
  vm = vmOf(imageOf(repository));
  requests = requestsOf(repository, vm, outputs);
}

/** Calls an activity as a worker does: in the context of an attempt. */
function call<A extends unknown[], R>(act: (...args: A) => Promise<R>, ...args: A): Promise<R> {
  return newAttempt().run(act, ...args);
}

async function code(promise: Promise<unknown>): Promise<ErrorCode | 'fine' | string> {
  try {
    await promise;
    return 'fine';
  } catch (error) {
    return error instanceof BerthError ? error.code : String(error);
  }
}

async function toRunning(): Promise<void> {
  await call(activities.stageIn, requests.stageIn);
  await call(activities.ensureRunning, vm);
}

beforeEach(() => open());

/** What runs a command in this guest keeps the begin of its output alone, and doesn't tell the signal. */
function runAsEarlier(guest: Guest, output: string, limitBytes: number): void {
  const { observeJob } = guest;
  guest.observeJob = async (name) => {
    const end = await observeJob(name);
    return end?.kind === 'exited' ? { ...end, signal: 'unknown', logBytes: null, tail: null } : end;
  };
  guest.readLog = async (_, from, limit) => Buffer.from(output.slice(0, limitBytes)).subarray(from, from + limit);
}

describe('a task on a host', () => {
  it('goes from an image to its outputs and leaves nothing', async () => {
    await toRunning();
    const result = await call(activities.runCommand, requests.run);
    expect(result).toMatchObject({ exitCode: 0, timedOut: false, signal: null, logBytes: 5 });
    const out = await call(activities.stageOut, requests.stageOut);
    expect(out).toMatchObject({ bytes: 5, unmatched: [], outputs: [{ path: 'out/result', node: 0, sizeBytes: 5 }] });
    await call(activities.removeVm, vm.id, 1);
    expect(host.leftovers()).toEqual([]);
    expect([...repository.logs.values()].map(String)).toEqual(['done\n']);
  });

  it('may repeat every step', async () => {
    for (const step of [
      () => call(activities.ensureImage, vm.image),
      () => call(activities.stageIn, requests.stageIn),
      () => call(activities.ensureRunning, vm),
      () => call(activities.runCommand, requests.run),
      () => call(activities.stageOut, requests.stageOut),
      () => call(activities.removeDomain, vm.id, 1),
      () => call(activities.removeDisks, vm.id, 1),
      () => call(activities.removeVm, vm.id, 1),
    ]) {
      const first: unknown = await step();
      const second: unknown = await step();
      if (step.toString().includes('ensureImage')) expect(second).toEqual({ from: 'cache', bytes: 0 });
      else if (step.toString().includes('stageOut'))
        expect(second).toEqual({ ...(first as StagedOut), attempt: expect.any(String) });
      else expect(second).toEqual(first);
    }
    expect(host.jobsStarted.get(vm.id)).toBe(1);
    expect(host.leftovers()).toEqual([]);
  });

  it('has its domain ended when its outputs are stored', async () => {
    await toRunning();
    await call(activities.runCommand, requests.run);
    const out = await call(activities.stageOut, requests.stageOut);
    expect(host.domains.size).toBe(0);
    expect(out.endedAt).toMatch(/^\d{4}-.*Z$/);
    await call(activities.removeVm, vm.id, 1);
    expect(host.leftovers()).toEqual([]);
  });

  it('is removed in one step, whatever exists of it', async () => {
    await toRunning();
    await call(activities.removeVm, vm.id, 1);
    expect(host.leftovers()).toEqual([]);
    await call(activities.removeVm, vm.id, 1);
    expect(await code(call(activities.stageIn, requests.stageIn))).toBe('stale-generation');
  });

  it('may remove what was never created', async () => {
    await call(activities.removeDomain, vm.id, 1);
    await call(activities.removeDisks, vm.id, 1);
    expect(host.leftovers()).toEqual([]);
  });
});

describe('an older generation', () => {
  it('is refused by every step that creates or removes something', async () => {
    await call(activities.ensureImage, vm.image);
    await call(activities.stageIn, { ...requests.stageIn, vm: { ...vm, generation: 2 } });
    expect(await code(call(activities.stageIn, requests.stageIn))).toBe('stale-generation');
    expect(await code(call(activities.ensureRunning, vm))).toBe('stale-generation');
    expect(await code(call(activities.runCommand, requests.run))).toBe('stale-generation');
    expect(await code(call(activities.stopCommand, vm.id, 1))).toBe('stale-generation');
    expect(await code(call(activities.stageOut, requests.stageOut))).toBe('stale-generation');
    expect(await code(call(activities.removeDomain, vm.id, 1))).toBe('stale-generation');
    expect(await code(call(activities.removeDisks, vm.id, 1))).toBe('stale-generation');
    expect(await code(call(activities.removeVm, vm.id, 1))).toBe('stale-generation');
    expect(host.records.get(vm.id)?.generation).toBe(2);
  });

  it('is refused after a removal, and so is the same one; the next is accepted', async () => {
    await call(activities.ensureImage, vm.image);
    await call(activities.stageIn, requests.stageIn);
    await call(activities.removeDomain, vm.id, 1);
    expect(await code(call(activities.stageIn, requests.stageIn))).toBe('stale-generation');
    await call(activities.removeDisks, vm.id, 1);
    expect(await code(call(activities.stageIn, requests.stageIn))).toBe('stale-generation');
    expect(host.leftovers()).toEqual([]);
    expect(await code(call(activities.stageIn, { ...requests.stageIn, vm: { ...vm, generation: 2 } }))).toBe('fine');
  });
});

describe('a domain', () => {
  it('keeps its disks as long as it lives', async () => {
    await toRunning();
    expect(await code(call(activities.removeDisks, vm.id, 1))).toBe('in-use');
    expect(await code(call(activities.quarantineVm, vm.id))).toBe('in-use');
    expect(host.disks.size).toBe(2);
  });

  it('that vanishes under a command is lost, and is not started again', async () => {
    open({ run: () => ({ exitCode: 0, durationMs: 1e9, log: '', files: {} }) });
    await toRunning();
    const running = code(call(activities.runCommand, { ...requests.run, timeoutS: 1e7 }));
    await expect.poll(() => host.jobsStarted.get(vm.id)).toBe(1);
    host.crashDomain(vm.id);
    expect(await running).toBe('vm-lost');
    expect(await code(call(activities.ensureRunning, vm))).toBe('vm-lost');
    expect(await code(call(activities.stageOut, requests.stageOut))).toBe('vm-lost');
  });

  it('that libvirtd left starting when it was killed is created again; one that had its command is not', async () => {
    await toRunning();
    const record = (await host.ports.store.read(vm.id))!;
    const left = host.domains.get(vm.id)!;
    const stuck = { state: 'paused', reason: 'starting up' } as const;
    left.status = { ...stuck };
    expect(await code(call(activities.ensureRunning, vm))).toBe('host-busy');
    expect(host.domains.get(vm.id)).toBe(left);
    await host.ports.store.writeDurably({ ...record, ready: null });
    expect(await code(call(activities.ensureRunning, vm))).toBe('fine');
    expect(host.domains.get(vm.id)).not.toBe(left);
    expect(host.domains.get(vm.id)?.status.state).toBe('running');
  });

  it('that ends while it boots has not booted', async () => {
    open({ bootMs: 1e9 });
    await call(activities.ensureImage, vm.image);
    await call(activities.stageIn, requests.stageIn);
    const booting = code(call(activities.ensureRunning, vm));
    await expect.poll(() => host.domains.size).toBe(1);
    host.crashDomain(vm.id);
    expect(await booting).toBe('boot-failed');
  });
});

describe('a guest from a template', () => {
  const template = () => ({ ...vmOf(vm.image), memoryMiB: vm.memoryMiB });
  /** Another VM like the first, prepared for its start. */
  async function another(): Promise<VmSpec> {
    const next = vmOf(vm.image);
    await call(activities.stageIn, requestsOf(repository, next).stageIn);
    return next;
  }
  const retries = [1, 2, 3];

  it('starts without a boot, with an identity of its own', async () => {
    await call(activities.ensureImage, vm.image);
    const made = template();
    expect(await call(activities.buildTemplate, made)).toMatchObject({ outcome: 'made' });
    await call(activities.removeDomain, made.id, 1);
    await call(activities.removeDisks, made.id, 1);
    expect(host.leftovers()).toEqual([]);
    const vms = [await another(), await another()];
    for (const one of vms) {
      expect(await call(activities.ensureRunning, one)).toMatchObject({ boot: { kind: 'warm' }, bootMs: 0 });
      expect(host.domains.get(one.id)?.identity).toMatchObject({ firstBootKind: 'warm', mac: one.mac, address: one.address });
    }
  });

  it('is made from the first that boots, once, however often it is requested', async () => {
    await toRunning();
    expect(await call(activities.ensureRunning, vm)).toMatchObject({ boot: { kind: 'cold', why: 'no-template' } });
    const made = template();
    expect((await call(activities.buildTemplate, made)).outcome).toBe('made');
    expect((await call(activities.buildTemplate, made)).outcome).toBe('already');
    expect((await call(activities.buildTemplate, template())).outcome).toBe('already');
    expect(host.templates.size).toBe(1);
  });

  it('is not made where the cache has no capacity for it', async () => {
    await call(activities.ensureImage, vm.image);
    host.cacheFull.now = true;
    expect(await call(activities.buildTemplate, template())).toMatchObject({ outcome: 'full', bytes: 0 });
    expect([host.domains.size, host.templates.size]).toEqual([0, 0]);
  });

  it('requires the same machine: another size boots by itself', async () => {
    await call(activities.ensureImage, vm.image);
    await call(activities.buildTemplate, { ...template(), memoryMiB: 512 });
    await toRunning();
    expect((await call(activities.ensureRunning, vm)).boot).toEqual({ kind: 'cold', why: 'no-template' });
  });

  it.each(['refused', 'silent'] as const)('that is %s boots by itself, and the template is retired in the end', async (kind) => {
    await call(activities.ensureImage, vm.image);
    await call(activities.buildTemplate, template());
    host.templateFault.kind = kind;
    for (const _ of retries) {
      const one = await another();
      expect((await call(activities.ensureRunning, one)).boot).toEqual({ kind: 'cold', why: 'template-failed' });
      expect(host.disks.get(host.ports.store.paths(one.id).overlay)).not.toHaveProperty('copyOf');
      expect(host.domains.get(one.id)).toMatchObject({ bootKind: 'cold', identity: { firstBootKind: 'cold' } });
    }
    host.templateFault.kind = 'none';
    expect((await call(activities.ensureRunning, await another())).boot).toEqual({ kind: 'cold', why: 'template-retired' });
    expect((await call(activities.buildTemplate, template())).outcome).toBe('retired');
  });

  it('that fails occasionally keeps its template', async () => {
    await call(activities.ensureImage, vm.image);
    await call(activities.buildTemplate, template());
    for (const kind of ['refused', 'none', 'refused', 'silent', 'none', 'refused'] as const) {
      host.templateFault.kind = kind;
      await call(activities.ensureRunning, await another());
    }
    host.templateFault.kind = 'none';
    expect((await call(activities.ensureRunning, await another())).boot.kind).toBe('warm');
  });

  it('whose worker was killed before it had its identity is created again', async () => {
    await call(activities.ensureImage, vm.image);
    await call(activities.buildTemplate, template());
    const one = await another();
    const { applyIdentity: adopt } = host.ports.guest;
    host.ports.guest.applyIdentity = async () => {
      throw new Error('killed');
    };
    expect(await code(call(activities.ensureRunning, one))).toContain('killed');
    const left = host.domains.get(one.id);
    expect(left).toMatchObject({ bootKind: 'warm', identity: null });
    host.ports.guest.applyIdentity = adopt;
    expect((await call(activities.ensureRunning, one)).boot.kind).toBe('warm');
    expect(host.domains.get(one.id)).not.toBe(left);
  });

  it('never replaces the disk of one that had an identity', async () => {
    await toRunning();
    await call(activities.buildTemplate, template());
    host.crashDomain(vm.id);
    const overlay = host.disks.get(host.ports.store.paths(vm.id).overlay);
    expect((await call(activities.ensureRunning, vm)).boot).toEqual({ kind: 'cold', why: 'used-disk' });
    expect(host.disks.get(host.ports.store.paths(vm.id).overlay)).toBe(overlay);
    expect(host.domains.get(vm.id)?.identity?.firstBootKind).toBeNull();
  });
});

describe('a command', () => {
  it('that exits with an error is a result, and its outputs are extracted', async () => {
    open({ run: () => ({ exitCode: 3, durationMs: 10, log: 'no\n', files: { 'out/a': 'a' } }) });
    await toRunning();
    expect(await call(activities.runCommand, requests.run)).toMatchObject({ exitCode: 3, timedOut: false });
    expect((await call(activities.stageOut, requests.stageOut)).outputs).toHaveLength(1);
  });

  it('that exceeds its time limit is ended by the guest', async () => {
    open({ run: () => ({ exitCode: 0, durationMs: 1e6, log: '', files: {} }) });
    await toRunning();
    const result = await call(activities.runCommand, { ...requests.run, timeoutS: 5 });
    expect(result).toMatchObject({ exitCode: null, timedOut: true });
    expect(Date.parse(result.endedAt) - Date.parse(result.startedAt)).toBe(5000);
  });

  it('that does not exist is reported', async () => {
    open({ run: () => ({ exitCode: 127, durationMs: 0, log: '', files: {}, notStarted: 'no such program' }) });
    await toRunning();
    expect(await code(call(activities.runCommand, requests.run))).toBe('command-not-started');
  });

  it('can be stopped before it starts: then it never does', async () => {
    await toRunning();
    await call(activities.stopCommand, vm.id, 1);
    expect(await code(call(activities.runCommand, requests.run))).toBe('command-not-started');
    expect(host.jobsStarted.size).toBe(0);
  });

  it('is followed by a later attempt after the first was cancelled, and runs once', async () => {
    open({ run: () => ({ exitCode: 0, durationMs: 60_000, log: 'x'.repeat(100), files: {} }) });
    await toRunning();
    const first = newAttempt();
    const cancelled = code(first.run(activities.runCommand, { ...requests.run, timeoutS: 100 }));
    await expect.poll(() => host.jobsStarted.get(vm.id)).toBe(1);
    first.cancel();
    expect(await cancelled).toContain('CANCELLED');
    expect(await call(activities.runCommand, { ...requests.run, timeoutS: 100 })).toMatchObject({ exitCode: 0, logBytes: 100 });
    expect(host.jobsStarted.get(vm.id)).toBe(1);
    expect([...repository.logs.values()].map((log) => log.length)).toEqual([100]);
  });

  /** What the repository has of a command that prints this much, after a run and a repetition, which adds nothing. */
  async function storedLog(bytes: number, limitBytes: number, earlier = false): Promise<{ output: string; log: string }> {
    const output = Array.from({ length: Math.ceil(bytes / 8) }, (_, index) => `${String(index).padStart(7)}\n`)
      .join('')
      .slice(0, bytes);
    open({ run: () => ({ exitCode: 0, durationMs: 10, log: output, files: {} }) });
    if (earlier) runAsEarlier(host.ports.guest, output, limitBytes);
    await toRunning();
    const run = { ...requests.run, log: { ...requests.run.log, limitBytes } };
    const ran = async () => {
      expect(await call(activities.runCommand, run)).toMatchObject({ exitCode: 0 });
      return [...repository.logs.values()].map(String);
    };
    const [log = '', ...others] = await ran();
    expect([await ran(), others]).toEqual([[log], []]);
    return { output, log };
  }

  it.each([
    [5_000_000, 1000, 4_999_000],
    [1001, 1000, 1],
    [70_000, 65_536, 4464],
    [3_000_000, 2_000_000, 1_000_000],
  ])('that prints %i bytes of at most %i has its begin and its end in the log, and that %i are left out', async (...numbers) => {
    const [bytes, limitBytes, leftOut] = numbers;
    const { output, log } = await storedLog(bytes, limitBytes);
    const [head, tail] = [output.slice(0, (limitBytes / 4) * 3), output.slice(bytes - limitBytes / 4)];
    expect(log).toBe(`${head}\n[berth: ${leftOut} bytes of output are left out here]\n${tail}`);
  });

  it.each([
    [999, 1000],
    [1000, 1000],
    [751, 1000],
  ])('that prints %i bytes of at most %i has all of them in the log', async (bytes, limitBytes) => {
    const { output, log } = await storedLog(bytes, limitBytes);
    expect(log).toBe(output);
  });

  it.each([
    [1000, 1000],
    [5_000_000, 1000],
    [70_000, 65_536],
  ])('in a guest of an earlier image says at the end of a log of %i bytes that it has its limit of %i', async (...numbers) => {
    const [bytes, limitBytes] = numbers;
    const { output, log } = await storedLog(bytes, limitBytes, true);
    const notice = `\n[berth: this log has its limit of ${limitBytes} bytes; output after it was not kept]\n`;
    expect(log).toBe(output.slice(0, limitBytes) + notice);
  });

  it.each(['quota-exceeded', 'disk-full', 'too-large', 'conflict', 'outputs-refused'] as const)(
    'that has ended well is not lost where the repository refuses its log as %s',
    async (refusal) => {
      open({ run: () => ({ exitCode: 0, durationMs: 5000, log: 'x'.repeat(1000), files: {} }) });
      await toRunning();
      host.ports.repository.appendLog = async () => {
        throw new BerthError(refusal, 'no log');
      };
      expect(await call(activities.runCommand, requests.run)).toMatchObject({ exitCode: 0, logBytes: 0 });
    },
  );

  it('has its whole log in the repository, although that lost a part and rejected one once', async () => {
    open({ run: () => ({ exitCode: 0, durationMs: 5000, log: 'x'.repeat(1_000_000), files: {} }) });
    await toRunning();
    const { appendLog } = host.ports.repository;
    let calls = 0;
    host.ports.repository.appendLog = async (url, from, bytes, signal) => {
      calls += 1;
      if (calls === 1) return 0;
      if (calls === 3) repository.logs.clear();
      return appendLog(url, from, bytes, signal);
    };
    expect(await call(activities.runCommand, requests.run)).toMatchObject({ exitCode: 0, logBytes: 1_000_000 });
    expect([...repository.logs.values()].map((log) => log.length)).toEqual([1_000_000]);
  });

  it('is followed by one attempt at a time: the newer takes over', async () => {
    open({ run: () => ({ exitCode: 0, durationMs: 20_000, log: '', files: {} }) });
    await toRunning();
    const late = code(call(activities.runCommand, requests.run));
    await expect.poll(() => host.jobsStarted.get(vm.id)).toBe(1);
    const next = call(activities.runCommand, requests.run);
    expect(await late).toBe('host-busy');
    expect(await next).toMatchObject({ exitCode: 0 });
    expect(host.jobsStarted.get(vm.id)).toBe(1);
  });
});

describe('outputs', () => {
  const files = { 'out/a': 'a', 'out/.hidden': 'h', 'out/deep/b': 'b', 'log.txt': 'l', 'out/ba\nd': 'x' };
  const openWith = (outputs: string[]) => open({ run: () => ({ exitCode: 0, durationMs: 10, log: '', files }) }, outputs);
  const taken = async (outputs: string[]) => {
    openWith(outputs);
    await toRunning();
    await call(activities.runCommand, requests.run);
    const { outputs: stored, unmatched } = await call(activities.stageOut, requests.stageOut);
    return { paths: stored.map(({ path }) => path), unmatched };
  };

  it('are what the patterns match: * within a folder, ** across, a dot only where the pattern has it', async () => {
    expect(await taken(['out/a'])).toEqual({ paths: ['out/a'], unmatched: [] });
    expect(await taken(['out/*/*', '*.txt'])).toEqual({ paths: ['log.txt', 'out/deep/b'], unmatched: [] });
    expect(await taken(['out/.h*', 'no/*'])).toEqual({ paths: ['out/.hidden'], unmatched: ['no/*'] });
  });

  it('have any name, which is escaped', async () => {
    expect((await taken(['out/*'])).paths).toEqual(['out/a', 'out/ba\\x0ad']);
  });

  it('are stored by an attempt with an id of its own, each time', async () => {
    openWith(['out/a', 'log.txt']);
    await toRunning();
    await call(activities.runCommand, requests.run);
    const attempts = () => [...repository.outputs.values()].map(({ attempt }) => attempt);
    const first = await call(activities.stageOut, requests.stageOut);
    expect(attempts()).toEqual([first.attempt, first.attempt]);
    const second = await call(activities.stageOut, requests.stageOut);
    expect([attempts(), second.attempt === first.attempt]).toEqual([[second.attempt, second.attempt], false]);
  });

  it('beyond the limits are skipped with the reason, and the others are stored', async () => {
    openWith(['out/a', 'log.txt']);
    await toRunning();
    await call(activities.runCommand, requests.run);
    const within = async (limits: StageOut['limits']) => {
      const { outputs, skipped, unmatched } = await call(activities.stageOut, { ...requests.stageOut, limits });
      expect([outputs.length, skipped?.count, skipped?.lost, unmatched]).toEqual([1, 1, 1, []]);
      return skipped?.listed;
    };
    expect(await within({ files: 1, bytes: 100 })).toMatchObject([{ path: '', reason: 'too-many-files' }]);
    const large = [{ path: 'out/a', reason: 'too-large', detail: expect.stringContaining('more than 1') }];
    expect(await within({ files: 9, bytes: 1 })).toMatchObject(large);
    expect(await within({ files: 9, bytes: 9, sparseBytes: 1 })).toMatchObject(large);
  });

  it.each([
    ['quota-exceeded', 'quota-exceeded'],
    ['too-large', 'too-large'],
    ['disk-full', 'refused'],
    ['outputs-refused', 'refused'],
  ] as const)('of which the repository refuses one as %s are stored without that one', async (refusal, reason) => {
    openWith(['out/a', 'log.txt', 'out/deep/b']);
    await toRunning();
    await call(activities.runCommand, requests.run);
    const { storeOutput } = host.ports.repository;
    host.ports.repository.storeOutput = async (url, path, ...rest) => {
      if (path === 'out/a') throw new BerthError(refusal, 'not this one');
      return storeOutput(url, path, ...rest);
    };
    const { outputs, skipped } = await call(activities.stageOut, requests.stageOut);
    expect(outputs.map(({ path }) => path)).toEqual(['log.txt', 'out/deep/b']);
    expect(skipped).toEqual({ listed: [{ path: 'out/a', reason, detail: 'not this one' }], count: 1, lost: 1 });
  });

  it('have a manifest where the task wants one, in the place of a file of its name', async () => {
    open({ run: () => ({ exitCode: 0, durationMs: 10, log: '', files: { a: 'a', '.berth-outputs.json': 'mine' } }) }, [
      '*',
      '.*',
    ]);
    await toRunning();
    await call(activities.runCommand, requests.run);
    expect((await call(activities.stageOut, requests.stageOut)).outputs.map(({ path }) => path)).toEqual([
      '.berth-outputs.json',
      'a',
    ]);
    const { outputs, skipped } = await call(activities.stageOut, { ...requests.stageOut, manifest: true });
    expect(outputs.map(({ path }) => path)).toEqual(['.berth-outputs.json', 'a']);
    expect(skipped?.listed).toMatchObject([{ path: '.berth-outputs.json', reason: 'refused' }]);
    const stored = [...repository.outputs.values()].find(({ path }) => path === '.berth-outputs.json');
    expect(JSON.parse(stored!.content.toString())).toEqual({
      version: 1,
      files: [{ path: 'a', mode: '0644', modifiedAt: '1970-01-01T00:00:00.000Z' }],
      folders: [],
      links: [],
    });
  });

  it('are stored by a later attempt where the repository is away or the task is over for it', async () => {
    openWith(['out/a']);
    await toRunning();
    await call(activities.runCommand, requests.run);
    const { storeOutput } = host.ports.repository;
    for (const refusal of ['repository-unavailable', 'forbidden', 'conflict'] as const) {
      host.ports.repository.storeOutput = async () => Promise.reject(new BerthError(refusal, 'not now'));
      expect(await code(call(activities.stageOut, requests.stageOut))).toBe(refusal);
    }
    host.ports.repository.storeOutput = storeOutput;
    expect((await call(activities.stageOut, requests.stageOut)).outputs).toHaveLength(1);
  });

  it('can still be extracted when the domain is gone after its disk was settled', async () => {
    await toRunning();
    await call(activities.runCommand, requests.run);
    await call(activities.stageOut, requests.stageOut);
    expect(host.domains.size).toBe(0);
    expect((await call(activities.stageOut, requests.stageOut)).outputs).toHaveLength(1);
  });
});

describe('inputs', () => {
  it('that cannot be fetched fail with the reason of the first, and leave nothing but the record', async () => {
    const url = 'http://nowhere.test/x';
    const bad = {
      ...requests.stageIn,
      inputs: [...requests.stageIn.inputs, { path: 'x', url, source: 'outside', sizeBytes: null, sha256: null } as const],
    };
    expect(await code(call(activities.stageIn, bad))).toBe('input-unavailable');
    await call(activities.removeDomain, vm.id, 1);
    await call(activities.removeDisks, vm.id, 1);
    expect(host.leftovers()).toEqual([]);
  });

  it('have the permissions that the task wants', async () => {
    const modes: (number | undefined)[] = [];
    const { fetch } = host.ports.inputFetcher;
    host.ports.inputFetcher.fetch = (request, signal) => {
      modes.push(request.mode);
      return fetch(request, signal);
    };
    const [input] = requests.stageIn.inputs;
    const inputs = [input!, { ...input!, path: 'bin/tool', mode: '0755' }];
    await call(activities.stageIn, { ...requests.stageIn, inputs });
    expect(modes).toEqual([undefined, 0o755]);
  });

  it('that lead out of /home/task or do not fit are refused', async () => {
    const [input] = requests.stageIn.inputs;
    expect(await code(call(activities.stageIn, { ...requests.stageIn, inputs: [{ ...input!, path: '../x' }] }))).toBe(
      'bad-request',
    );
    expect(await code(call(activities.stageIn, { ...requests.stageIn, vm: { ...vm, diskMiB: 0 } }))).toBe('inputs-too-large');
  });
});

describe('what has no owner', () => {
  it('is moved out of use, and removed a day later', async () => {
    await call(activities.stageIn, requests.stageIn);
    await call(activities.quarantineVm, vm.id);
    expect(await call(activities.observeInventory)).toMatchObject({ disks: [], quarantined: [vm.id] });
    await call(activities.quarantineVm, vm.id);
    expect(host.quarantined.size).toBe(1);
    await host.ports.clock.sleep(25 * 3600 * 1000);
    await call(activities.quarantineVm, vm.id);
    expect(host.quarantined.size).toBe(0);
  });
});

describe('networks', () => {
  it('remain as long as a VM of this host needs them', async () => {
    await toRunning();
    const other = { ...vmOf(vm.image), network: vm.network };
    await call(activities.stageIn, requestsOf(repository, other).stageIn);
    await call(activities.removeDomain, vm.id, 1);
    await call(activities.removeDisks, vm.id, 1);
    expect(host.networks.size).toBe(1);
    await call(activities.removeDisks, other.id, 1);
    expect(host.networks.size).toBe(0);
  });

  it('are removed when the last two VMs leave together', async () => {
    await toRunning();
    const other = { ...vmOf(vm.image), network: vm.network };
    await call(activities.stageIn, requestsOf(repository, other).stageIn);
    await call(activities.removeDomain, vm.id, 1);
    await Promise.all([call(activities.removeDisks, vm.id, 1), call(activities.removeDisks, other.id, 1)]);
    expect(host.leftovers()).toEqual([]);
  });
});

describe('a VM that has moved here', () => {
  const see = (busyCpus: number) => call(activities.observeRecovery, { vmId: vm.id, generation: 1, busyCpus });

  it('has recovered as soon as it keeps its processors as busy as before, from above or from below', async () => {
    await toRunning();
    host.loads.set(vm.id, { busyCpus: 1 });
    const beganMs = host.clock.nowMs();
    for (const before of [1, 0.9, 1.1]) expect(await see(before)).toBe(true);
    expect(host.clock.nowMs() - beganMs).toBe(3_000);
    setTimeout(() => host.loads.set(vm.id, { busyCpus: 0.2 }), 0);
    expect(await see(0.2)).toBe(true);
  });

  it('is observed for a minute, and not when it has moved to another host', async () => {
    await toRunning();
    host.loads.set(vm.id, { busyCpus: 1 });
    const beganMs = host.clock.nowMs();
    expect(await see(0.5)).toBe(false);
    expect(host.clock.nowMs() - beganMs).toBe(60_000);
    await call(activities.removeDomain, vm.id, 2);
    expect(await code(call(activities.observeRecovery, { vmId: vm.id, generation: 1, busyCpus: 1 }))).toBe('stale-generation');
    expect(await call(activities.observeRecovery, { vmId: vm.id, generation: 2, busyCpus: 1 })).toBe(false);
  });
});
