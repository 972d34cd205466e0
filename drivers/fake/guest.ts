import { BerthError } from '../../model/errors.ts';
import type { Guest, JobEnd } from '../ports.ts';
import { bootAgain } from './hypervisor.ts';
import { bug, disksAt, type FakeDataDisk, type FakeDomain, type FakeJob, type FakeState } from './state.ts';

const introductionDeadlineMs = 20_000;

export function createFakeGuest(state: FakeState): Guest {
  const isUp = ({ createdMs }: FakeDomain): boolean => state.clock.nowMs() - createdMs >= state.bootMs;
  const live = (name: string): FakeDomain => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('vm-lost', `asking the agent of ${name}: there is no such domain`);
    if (domain.status.state !== 'running') throw new BerthError('host-busy', `the agent of ${name} stands still with its guest`);
    if (!isUp(domain)) throw new BerthError('host-busy', `the agent of ${name} doesn't answer yet`);
    advance(state, domain);
    return domain;
  };
  /** In a guest from a template a process waits for its identity, and ends when it has it. */
  const awaitWaiting = async (name: string): Promise<void> => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('hypervisor', `giving ${name} its identity: there is no such domain`);
    if (domain.born === 'warm' && domain.identity === null && isUp(domain)) return;
    await state.clock.sleep(introductionDeadlineMs);
    throw new BerthError('boot-failed', `giving ${name} its identity: no answer in ${introductionDeadlineMs} ms`);
  };
  return {
    async writeSeed(path, identity) {
      state.disks.set(path, { kind: 'seed', identity: structuredClone(identity) });
    },
    async awaitCloudInit(name) {
      const domain = live(name);
      const disc = domain.config.drive?.disc ?? null;
      const seed = disc === null ? undefined : state.disks.get(disc);
      if (seed?.kind === 'seed') domain.seeded = seed.identity;
    },
    async ping(name) {
      const domain = state.domains.get(name);
      return domain !== undefined && domain.status.state === 'running' && isUp(domain) && !state.silent.has(name);
    },
    async calm(name) {
      live(name).calm = true;
    },
    async adopt(name, identity) {
      if (identity.birth === 'warm') await awaitWaiting(name);
      const domain = live(name);
      if (domain.born === 'warm' && domain.identity === null && identity.birth !== 'warm')
        throw bug(`${name} would keep what its template has`);
      if (domain.settled) throw bug(`adopting ${name} after it was settled`);
      domain.identity = structuredClone(identity);
    },
    async setUp(name, identity, setup) {
      const domain = live(name);
      if (domain.identity === null) throw bug(`setting up ${name} before it has its identity`);
      if (identity.hostname !== domain.identity.hostname) throw bug(`setting up ${name} as ${identity.hostname}`);
      domain.setup = structuredClone(setup);
    },
    async startJob(name, job) {
      const domain = live(name);
      if (domain.identity === null) throw bug(`starting a job in ${name} before it has its identity`);
      if (domain.job !== 'none') return;
      const run = state.run(job, new Map(dataOf(state, domain).files));
      const startedMs = state.clock.nowMs();
      const started = run.notStarted === undefined;
      domain.job = { job, startedMs, run, endedMs: started ? null : startedMs, timedOut: false, stopped: false };
      if (started) state.jobsStarted.set(name, (state.jobsStarted.get(name) ?? 0) + 1);
    },
    hasJob: async (name) => live(name).job !== 'none',
    jobEnd: async (name) => endOf(live(name).job),
    async readLog(name, from, limit) {
      const entry = live(name).job;
      if (typeof entry === 'string') return Buffer.alloc(0);
      return Buffer.from(entry.run.log)
        .subarray(0, entry.job.logLimitBytes)
        .subarray(from, from + limit);
    },
    async stopJob(name) {
      const domain = live(name);
      if (domain.job === 'none') domain.job = 'forbidden';
      if (domain.job === 'forbidden' || domain.job.endedMs !== null) return;
      domain.job.endedMs = state.clock.nowMs();
      domain.job.stopped = true;
    },
    bootId: async (name) => `boot-${live(name).boot}`,
    async reboot(name) {
      bootAgain(state, live(name));
    },
    async settle(name) {
      const domain = live(name);
      const data = dataOf(state, domain);
      for (const [path, content] of data.unwritten) data.files.set(path, content);
      data.unwritten.clear();
      domain.settled = true;
    },
    async shutDown(name) {
      const domain = live(name);
      const data = dataOf(state, domain);
      for (const [path, content] of data.unwritten) data.files.set(path, content);
      data.unwritten.clear();
      state.domains.delete(name);
    },
  };
}

function dataOf(state: FakeState, { config }: FakeDomain): FakeDataDisk {
  const source = config.disks.find(({ target }) => target === 'vdb')?.source;
  const disk = source === undefined ? undefined : disksAt(state, source)?.get(source.path);
  if (disk?.kind !== 'data') throw bug(`${config.name} has no data disk`);
  return disk;
}

/** Brings a job to where it is by the clock. */
function advance(state: FakeState, domain: FakeDomain): void {
  const entry = domain.job;
  if (typeof entry === 'string' || entry.endedMs !== null) return;
  const endMs = entry.startedMs + entry.run.durationMs;
  const limitMs = entry.startedMs + entry.job.timeoutS * 1000;
  if (state.clock.nowMs() < Math.min(endMs, limitMs)) return;
  entry.timedOut = limitMs < endMs;
  entry.endedMs = Math.min(endMs, limitMs);
  if (entry.timedOut || domain.settled) return;
  for (const [path, text] of Object.entries(entry.run.files)) dataOf(state, domain).unwritten.set(path, Buffer.from(text));
}

function endOf(entry: FakeJob | 'none' | 'forbidden'): JobEnd | null {
  if (entry === 'forbidden') return { kind: 'notStarted', why: 'it was stopped before it started' };
  if (entry === 'none' || entry.endedMs === null) return null;
  if (entry.run.notStarted !== undefined) return { kind: 'notStarted', why: entry.run.notStarted };
  return {
    kind: 'exited',
    exitCode: entry.timedOut || entry.stopped ? 143 : entry.run.exitCode,
    timedOut: entry.timedOut,
    stopped: entry.stopped,
    seconds: (entry.endedMs - entry.startedMs) / 1000,
    logBytes: Math.min(Buffer.byteLength(entry.run.log), entry.job.logLimitBytes),
  };
}
