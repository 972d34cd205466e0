import type { DomainDisk } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import type { CopyJob, DiskMover } from '../ports/disk-mover.ts';
import { bug, disksAt, type FakeDomain, type FakeState } from './state.ts';

const totalBytes = 8 * 2 ** 20;
const copyMs = 100;

/** Copies take time by the clock; writes of the guest during a copy are in both disks. */
export function createFakeDiskMover(state: FakeState): DiskMover {
  const jobs = new Map<string, { disk: DomainDisk; startedMs: number; domain: FakeDomain }>();
  const requireDomain = (name: string): FakeDomain => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('hypervisor', `virsh blockcopy: there is no domain ${name}`);
    return domain;
  };
  const find = (name: string, target: string) => {
    const key = `${name} ${target}`;
    const found = jobs.get(key);
    // A job ends with its domain.
    if (found !== undefined && found.domain !== state.domains.get(name)) jobs.delete(key);
    return jobs.get(key);
  };
  const progress = (startedMs: number): CopyJob => {
    const part = Math.min(1, (state.clock.nowMs() - startedMs) / copyMs);
    return { copiedBytes: Math.floor(totalBytes * part), totalBytes, ready: part === 1 };
  };
  return {
    readSources: async (name) =>
      new Map(requireDomain(name).config.disks.map(({ target, source }) => [target, structuredClone(source)])),
    async startCopy(name, disk) {
      const domain = requireDomain(name);
      if (find(name, disk.target) !== undefined)
        throw new BerthError('hypervisor', `blockcopy ${name} ${disk.target}: already in a block job`);
      if (disk.source.kind !== 'file' || !state.disks.has(disk.source.path))
        throw new BerthError('hypervisor', `blockcopy ${name} ${disk.target}: there is no file to copy to`);
      jobs.set(`${name} ${disk.target}`, { disk: structuredClone(disk), startedMs: state.clock.nowMs(), domain });
    },
    async observeCopy(name, target) {
      const job = find(name, target);
      return job === undefined ? null : progress(job.startedMs);
    },
    async pivot(name, target) {
      const job = find(name, target);
      if (job === undefined || !progress(job.startedMs).ready)
        throw new BerthError('hypervisor', `pivot ${name} ${target}: the block copy is not ready`);
      const old = job.domain.config.disks.find((disk) => disk.target === target);
      const content = old === undefined ? undefined : disksAt(state, old.source)?.get(old.source.path);
      if (old === undefined || content === undefined) throw bug(`${name} has no disk ${target} to copy`);
      state.disks.set(job.disk.source.path, structuredClone(content));
      old.source = job.disk.source;
      jobs.delete(`${name} ${target}`);
    },
    async abortCopy(name, target) {
      jobs.delete(`${name} ${target}`);
    },
  };
}
