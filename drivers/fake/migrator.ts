import type { DomainConfig } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import type { MigrationJob } from '../../model/migration.ts';
import type { Migrator } from '../ports/migrator.ts';
import { createFakeHypervisor, refuseMissing, shiftTime } from './hypervisor.ts';
import { bug, endDomain, type FakeDomain, type FakeState, fakeBusyCpus } from './state.ts';

const steps = 10;
const stepMs = 20;
/** For a pre-copy that doesn't converge. */
const nonConvergingStepMs = 10_000;
const memoryBytes = 64 * 2 ** 20;

/** Migrates memory between fake hosts in steps of the clock, with every phase of a real migration. */
export function createFakeMigrator(state: FakeState): Migrator {
  const { clock } = state;
  const cpuTimes = new Map<string, { seconds: number; atMs: number }>();
  const jobs = new Map<string, { aborted: boolean; step: number }>();
  const refused = (name: string, why: string) => new BerthError('hypervisor', `virsh migrate ${name}: ${why}`);

  function targetOf(config: DomainConfig, address: string): FakeState {
    const target = state.hostsByAddress.get(address);
    if (target === undefined) throw refused(config.name, `unable to connect to ${address}`);
    if (target.domains.has(config.name)) throw refused(config.name, 'already exists at the target');
    refuseMissing(target, config);
    return target;
  }

  /** The domain at the target, with the target's clock. */
  function copyToTarget(domain: FakeDomain, config: DomainConfig, target: FakeState): FakeDomain {
    const shiftMs = target.clock.nowMs() - clock.nowMs();
    const copy: FakeDomain = { ...domain, config: structuredClone(config), status: { state: 'paused', reason: 'user' } };
    shiftTime(copy, shiftMs);
    return copy;
  }

  return {
    async migrate({ config, targetAddress }) {
      const { name } = config;
      const domain = state.domains.get(name);
      const before = domain?.status;
      if (domain === undefined || (before?.state !== 'running' && before?.state !== 'paused'))
        throw refused(name, 'the domain is not running');
      if (jobs.has(name)) throw refused(name, 'another job is active');
      const target = targetOf(config, targetAddress);
      const job = { aborted: false, step: 0 };
      jobs.set(name, job);
      const incoming: FakeDomain = { ...domain, config, status: { state: 'paused', reason: 'migrating' } };
      target.domains.set(name, incoming);
      try {
        for (; job.step < steps; job.step += state.nonConverging.has(name) ? 0 : 1) {
          await clock.sleep(state.nonConverging.has(name) ? nonConvergingStepMs : stepMs);
          if (job.aborted || state.domains.get(name) !== domain || target.domains.get(name) !== incoming) {
            if (target.domains.get(name) === incoming) target.domains.delete(name);
            throw refused(name, 'operation aborted');
          }
        }
        // One that was paused before keeps its reason.
        if (domain.status.state === 'running') domain.status = { state: 'paused', reason: 'migrating' };
        await clock.sleep(stepMs);
        target.domains.set(name, copyToTarget(domain, config, target));
        await clock.sleep(stepMs);
        if (state.domains.get(name) === domain) endDomain(state, name, 'left');
      } finally {
        jobs.delete(name);
      }
    },
    async observeJob(name): Promise<MigrationJob | null> {
      if (!state.domains.has(name)) return null;
      const job = jobs.get(name);
      // Whole bytes, as a hypervisor counts them.
      const processedBytes = Math.floor(((job?.step ?? 0) * memoryBytes) / steps);
      return {
        active: job !== undefined || state.domains.get(name)?.status.reason === 'saving',
        elapsedMs: (job?.step ?? 0) * stepMs,
        totalBytes: memoryBytes,
        processedBytes,
        remainingBytes: memoryBytes - processedBytes,
        dirtyBytesPerS: 0,
        bytesPerS: memoryBytes,
      };
    },
    async abort(name) {
      const job = jobs.get(name);
      if (job !== undefined) job.aborted = true;
      // Like virsh: answers when the job has ended.
      while (jobs.has(name)) await clock.sleep(stepMs);
    },
    async setMaxDowntime(name) {
      if (!state.domains.has(name)) throw refused(name, 'no such domain');
    },
    async measureLoad(name) {
      if (state.domains.get(name)?.status.state !== 'running') return null;
      return {
        residentMiB: memoryBytes / 2 ** 20,
        dirtyMiBPerS: 0,
        busyCpus: fakeBusyCpus(state, name),
        ...state.loads.get(name),
      };
    },
    async readCpuSeconds(name) {
      if (!state.domains.has(name)) return null;
      const atMs = clock.nowMs();
      const last = cpuTimes.get(name) ?? { seconds: 0, atMs };
      const seconds = last.seconds + (fakeBusyCpus(state, name) * (atMs - last.atMs)) / 1000;
      cpuTimes.set(name, { seconds, atMs });
      return seconds;
    },
    async watchProcess(name) {
      const domain = state.domains.get(name);
      if (domain === undefined) return null;
      const hasEnded = () => state.domains.get(name) !== domain;
      return {
        hasEnded,
        async waitForEnd(signal) {
          while (!hasEnded()) await clock.sleep(stepMs, signal);
        },
      };
    },
    openPeer(address) {
      const peer = () => {
        const host = state.hostsByAddress.get(address);
        if (host === undefined || state.peersUnresponsive.now) throw new BerthError('host-busy', `asking ${address}: no route`);
        return host;
      };
      return {
        connect: () => undefined,
        status: async (name) => structuredClone(peer().domains.get(name)?.status ?? null),
        async resume(name) {
          if (state.domains.has(name)) throw bug(`${name} resumed at ${address} while ${state.id} has it`);
          await createFakeHypervisor(peer()).resumeCpus(name);
        },
        close: () => undefined,
      };
    },
  };
}
