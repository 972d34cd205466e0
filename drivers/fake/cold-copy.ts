import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { BerthError } from '../../model/errors.ts';
import type { ColdCopyPass } from '../../model/migration.ts';
import { vmFilePath } from '../host/vm-paths.ts';
import type { ColdCopy } from '../ports/cold-copy.ts';
import { shiftTime } from './hypervisor.ts';
import { bug, type FakeState, pathsOf, refuseLive } from './state.ts';

const chunks = 1024;
const packedBytes = 8 * 2 ** 20;
const passStepMs = 20;

/** Transfers files between fake hosts as packs; only of VMs that don't run. */
export function createFakeColdCopy(state: FakeState): ColdCopy {
  const diskPath = (vmId: string, file: Exclude<ColdCopyFile, 'memory'>): string => vmFilePath(pathsOf(vmId), file);
  const disksOf = (files: readonly ColdCopyFile[]) => files.filter((file) => file !== 'memory');
  const passes = new Map<string, Omit<ColdCopyPass, 'elapsedMs'> & { sinceMs: number }>();
  async function runPass(vmId: string, kind: ColdCopyPass['kind'], from: string | null): Promise<void> {
    const pass = { kind, from, doneBytes: packedBytes / 2, totalBytes: packedBytes, sinceMs: state.clock.nowMs() };
    passes.set(vmId, pass);
    do await state.clock.sleep(passStepMs);
    while (state.heldPasses.get(vmId) === kind);
    passes.delete(vmId);
  }
  return {
    async observePass(vmId) {
      const pass = passes.get(vmId);
      if (pass === undefined) return null;
      const { sinceMs, ...rest } = pass;
      return { ...rest, elapsedMs: state.clock.nowMs() - sinceMs };
    },
    offerCachedChunks: async (vmId) => ({ chunks: state.previousVersions.has(vmId) ? chunks : 0 }),
    async pack(vmId, files, offer) {
      if (offer !== null && offer.chunks > 0 && state.hostsByAddress.get(offer.address)?.previousVersions.has(vmId) !== true)
        throw bug(`packing ${vmId} for what ${offer.address} doesn't have`);
      const memory = state.memories.get(pathsOf(vmId).memory) ?? null;
      if (files.includes('memory') && memory?.complete !== true)
        throw bug(`packing the memory of ${vmId}, which is not complete`);
      await runPass(vmId, 'pack', null);
      const disks = disksOf(files).map((file) => {
        const path = diskPath(vmId, file);
        refuseLive(state, path, 'packing');
        const disk = state.disks.get(path);
        if (disk === undefined) throw bug(`packing ${path}, which isn't there`);
        return [path, structuredClone(disk)] as const;
      });
      state.packs.set(vmId, { memory: files.includes('memory') ? structuredClone(memory) : null, disks: new Map(disks) });
      return { bytes: offer !== null && offer.chunks > 0 ? packedBytes / 8 : packedBytes / 2, totalBytes: packedBytes };
    },
    async unpack(vmId, { address }) {
      const from = state.hostsByAddress.get(address);
      if (from === undefined) throw new BerthError('host-busy', `fetching from ${address}: no route`);
      const pack = from.packs.get(vmId);
      if (pack === undefined) throw new BerthError('internal', `nfs-cp: ${address} has no pack of ${vmId}`);
      if (!state.records.has(vmId)) throw bug(`unpacking ${vmId} before its record`);
      await runPass(vmId, 'fetch', address);
      await runPass(vmId, 'unpack', address);
      // The clocks of the two hosts differ.
      const shiftMs = state.clock.nowMs() - from.clock.nowMs();
      if (pack.memory !== null) {
        const memory = structuredClone(pack.memory);
        memory.savedMs += shiftMs;
        shiftTime(memory.domain, shiftMs);
        state.memories.set(pathsOf(vmId).memory, memory);
      }
      for (const [path, disk] of pack.disks) {
        refuseLive(state, path, 'overwriting');
        state.disks.set(path, structuredClone(disk));
      }
    },
    async keepPreviousVersion(vmId, files) {
      for (const file of disksOf(files)) {
        refuseLive(state, diskPath(vmId, file), 'keeping');
        state.disks.delete(diskPath(vmId, file));
      }
      if (files.includes('memory')) state.memories.delete(pathsOf(vmId).memory);
      state.previousVersions.add(vmId);
    },
    async removeTransferFiles(vmId) {
      state.packs.delete(vmId);
    },
  };
}
