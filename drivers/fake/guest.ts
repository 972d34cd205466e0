import { BerthError } from '../../model/errors.ts';
import type { Guest, JobResult, LogTail } from '../ports/guest.ts';
import { rebootDomain } from './hypervisor.ts';
import { bug, disksAt, endDomain, type FakeDataDisk, type FakeDomain, type FakeJob, type FakeState } from './state.ts';

const identityDeadlineMs = 20_000;

export function createFakeGuest(state: FakeState): Guest {
  const isUp = ({ createdMs }: FakeDomain): boolean => state.clock.nowMs() - createdMs >= state.bootMs;
  const requireAgent = (name: string): FakeDomain => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('vm-lost', `asking the agent of ${name}: there is no such domain`);
    if (domain.status.state !== 'running') throw new BerthError('host-busy', `the agent of ${name} is paused with its guest`);
    if (!isUp(domain)) throw new BerthError('host-busy', `the agent of ${name} doesn't answer yet`);
    advanceJob(state, domain);
    return domain;
  };
  /** In a guest from a template a process waits for the identity, and ends when it has received it. */
  const awaitIdentityPort = async (name: string): Promise<void> => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('hypervisor', `giving ${name} its identity: there is no such domain`);
    if (domain.bootKind === 'warm' && domain.identity === null && isUp(domain)) return;
    await state.clock.sleep(identityDeadlineMs);
    throw new BerthError('boot-failed', `giving ${name} its identity: no answer in ${identityDeadlineMs} ms`);
  };
  return {
    async writeSeed(path, identity) {
      state.disks.set(path, { kind: 'seed', identity: structuredClone(identity) });
    },
    async awaitCloudInit(name) {
      const domain = requireAgent(name);
      const iso = domain.config.cdrom?.iso ?? null;
      const seed = iso === null ? undefined : state.disks.get(iso);
      if (seed?.kind === 'seed') domain.seedRead = seed.identity;
    },
    async ping(name) {
      const domain = state.domains.get(name);
      return domain !== undefined && domain.status.state === 'running' && isUp(domain) && !state.unresponsive.has(name);
    },
    async quiesce(name) {
      requireAgent(name).quiesced = true;
    },
    async applyIdentity(name, identity) {
      if (identity.firstBootKind === 'warm') await awaitIdentityPort(name);
      const domain = requireAgent(name);
      if (domain.bootKind === 'warm' && domain.identity === null && identity.firstBootKind !== 'warm')
        throw bug(`${name} would keep its template's identity`);
      if (domain.flushed) throw bug(`applying the identity of ${name} after its disk was flushed`);
      domain.identity = structuredClone(identity);
    },
    async setUp(name, identity, setup) {
      const domain = requireAgent(name);
      if (domain.identity === null) throw bug(`setting up ${name} before it has its identity`);
      if (identity.hostname !== domain.identity.hostname) throw bug(`setting up ${name} as ${identity.hostname}`);
      domain.setup = structuredClone(setup);
    },
    async startJob(name, job) {
      const domain = requireAgent(name);
      if (domain.identity === null) throw bug(`starting a job in ${name} before it has its identity`);
      if (domain.job !== 'none') return;
      const run = state.run(job, new Map(dataOf(state, domain).files));
      const startedMs = state.clock.nowMs();
      const started = run.notStarted === undefined;
      domain.job = { job, startedMs, run, endedMs: started ? null : startedMs, timedOut: false, stopped: false };
      if (!started) return;
      state.jobsStarted.set(name, (state.jobsStarted.get(name) ?? 0) + 1);
      writeFiles(dataOf(state, domain), run.early ?? {});
    },
    hasJob: async (name) => requireAgent(name).job !== 'none',
    observeJob: async (name) => jobResult(requireAgent(name).job),
    async readLog(name, from, limit) {
      const entry = requireAgent(name).job;
      if (typeof entry === 'string') return Buffer.alloc(0);
      return Buffer.from(entry.run.log)
        .subarray(0, headBytes(entry.job))
        .subarray(from, from + limit);
    },
    async readLogTail(name, from, limit) {
      const entry = requireAgent(name).job;
      return typeof entry === 'string' ? Buffer.alloc(0) : ringOf(entry).ring.subarray(from, from + limit);
    },
    async stopJob(name) {
      const domain = requireAgent(name);
      if (domain.job === 'none') domain.job = 'forbidden';
      if (domain.job === 'forbidden' || domain.job.endedMs !== null) return;
      domain.job.endedMs = state.clock.nowMs();
      domain.job.stopped = true;
    },
    bootId: async (name) => `boot-${requireAgent(name).bootCount}`,
    async reboot(name) {
      rebootDomain(state, requireAgent(name));
    },
    async syncDataDisk(name) {
      flush(dataOf(state, requireAgent(name)));
    },
    async flushDataDisk(name) {
      const domain = requireAgent(name);
      flush(dataOf(state, domain));
      domain.flushed = true;
    },
    async shutDown(name) {
      const domain = requireAgent(name);
      flush(dataOf(state, domain));
      endDomain(state, name, 'poweredOff');
    },
  };
}

function dataOf(state: FakeState, { config }: FakeDomain): FakeDataDisk {
  const source = config.disks.find(({ target }) => target === 'vdb')?.source;
  const disk = source === undefined ? undefined : disksAt(state, source)?.get(source.path);
  if (disk?.kind !== 'data') throw bug(`${config.name} has no data disk`);
  return disk;
}

function flush({ files, unwritten }: FakeDataDisk): void {
  for (const [path, content] of unwritten) files.set(path, content);
  unwritten.clear();
}

/** Advances a job to its state by the clock. */
function advanceJob(state: FakeState, domain: FakeDomain): void {
  const entry = domain.job;
  if (typeof entry === 'string' || entry.endedMs !== null) return;
  const endMs = entry.startedMs + entry.run.durationMs;
  const limitMs = entry.startedMs + entry.job.timeoutS * 1000;
  if (state.clock.nowMs() < Math.min(endMs, limitMs)) return;
  entry.timedOut = limitMs < endMs;
  entry.endedMs = Math.min(endMs, limitMs);
  if (entry.timedOut || domain.flushed) return;
  writeFiles(dataOf(state, domain), entry.run.files);
}

function writeFiles({ unwritten }: FakeDataDisk, files: Record<string, string>): void {
  for (const [path, text] of Object.entries(files)) unwritten.set(path, Buffer.from(text));
}

/** As berth-job divides a log's limit: three quarters for its begin, a quarter for the ring. */
const headBytes = ({ logLimitBytes }: FakeJob['job']): number => logLimitBytes - Math.floor(logLimitBytes / 4);

/** What the ring has when a job has ended: byte N of what the log has no room for at N % its size. */
function ringOf({ job, run }: FakeJob): { ring: Buffer; tail: LogTail } {
  const beyond = Buffer.from(run.log).subarray(headBytes(job));
  const size = Math.floor(job.logLimitBytes / 4);
  const kept = beyond.subarray(Math.max(0, beyond.length - size));
  const from = beyond.length > size && size > 0 ? beyond.length % size : 0;
  const ring = Buffer.concat([kept.subarray(kept.length - from), kept.subarray(0, kept.length - from)]);
  return { ring, tail: { leftOutBytes: beyond.length - kept.length, bytes: kept.length, from } };
}

function jobResult(entry: FakeJob | 'none' | 'forbidden'): JobResult | null {
  if (entry === 'forbidden') return { kind: 'notStarted', why: 'it was stopped before it started' };
  if (entry === 'none' || entry.endedMs === null) return null;
  if (entry.run.notStarted !== undefined) return { kind: 'notStarted', why: entry.run.notStarted };
  return {
    kind: 'exited',
    exitCode: entry.timedOut || entry.stopped ? 143 : entry.run.exitCode,
    timedOut: entry.timedOut,
    stopped: entry.stopped,
    seconds: (entry.endedMs - entry.startedMs) / 1000,
    signal: entry.timedOut || entry.stopped ? 15 : (entry.run.signal ?? null),
    logBytes: Math.min(Buffer.byteLength(entry.run.log), headBytes(entry.job)),
    tail: ringOf(entry).tail,
  };
}
