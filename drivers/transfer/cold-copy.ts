import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { BerthError } from '../../model/errors.ts';
import type { ColdCopyPass } from '../../model/migration.ts';
import { diskFullOr } from '../host/files.ts';
import type { ColdCopy } from '../ports/cold-copy.ts';
import type { VmStore } from '../ports/vm-store.ts';
import { copyOverNfs } from './nfs-copy.ts';
import { type PassProgress, PreviousVersionDamaged, readEntries, readPack, writePack } from './pack.ts';
import { keepPreviousVersion, readPreviousVersion } from './previous-version.ts';

/** An old version that nobody came back for in a day is only in the way, and somebody's data. */
const previousVersionMaxAgeMs = 24 * 3600 * 1000;

/**
 * VMs as files, from host to host: what the target still has of an earlier version isn't carried again, and the rest is
 * compressed. The pack is a file: nothing connects into a host worker but the NFS that is there.
 * @param budgetMiB what versions kept of VMs that went elsewhere may take together
 */
export function openColdCopy(root: string, store: VmStore, budgetMiB: number): ColdCopy {
  const versions = join(root, 'versions');
  const previousVersionFolder = (vmId: string): string => join(versions, vmId);
  const offerPath = (vmId: string): string => join(versions, `${vmId}.have`);
  const packPath = (vmId: string): string => join(root, 'versions', `${vmId}.pack`);
  const filePath = (vmId: string, file: ColdCopyFile): string => {
    const paths = store.paths(vmId);
    if (file === 'memory' || file === 'overlay' || file === 'data') return paths[file];
    return join(paths.folder, `${file}.raw`);
  };

  const passes = new Map<string, Omit<ColdCopyPass, 'elapsedMs'> & { sinceMs: number }>();
  async function trackPass<T>(
    vmId: string,
    what: Pick<ColdCopyPass, 'kind' | 'from'>,
    totalBytes: number,
    act: (meter: PassProgress) => Promise<T>,
  ): Promise<T> {
    const pass = { ...what, doneBytes: 0, totalBytes, sinceMs: performance.now() };
    passes.set(vmId, pass);
    try {
      return await act(pass);
    } finally {
      if (passes.get(vmId) === pass) passes.delete(vmId);
    }
  }

  return {
    async offerCachedChunks(vmId) {
      await mkdir(versions, { recursive: true, mode: 0o700 });
      const hashes = new Set<string>();
      for (const { chunks: recipe } of await readPreviousVersion(previousVersionFolder(vmId)))
        for (const { hash } of readEntries(recipe.entries)) hashes.add(hash);
      await writeFile(offerPath(vmId), Buffer.from([...hashes].join(''), 'hex'), { mode: 0o600 });
      return { chunks: hashes.size };
    },
    async pack(vmId, files, offer) {
      await mkdir(versions, { recursive: true, mode: 0o700 });
      const pack = packPath(vmId);
      const cachedChunks = new Set<string>();
      if (offer !== null && offer.chunks > 0) {
        const copy = `${pack}.have`;
        await copyOverNfs({ address: offer.address, path: offerPath(vmId), destination: copy, sizeBytes: offer.chunks * 16 });
        const bytes = await readFile(copy);
        for (let at = 0; at < bytes.length; at += 16) cachedChunks.add(bytes.toString('hex', at, at + 16));
        await rm(copy);
      }
      try {
        const named = files.map((name) => ({ name, path: filePath(vmId, name) }));
        const totalBytes = await trackPass(vmId, { kind: 'pack', from: null }, 0, (meter) =>
          writePack(pack, named, cachedChunks, meter),
        );
        return { bytes: (await stat(pack)).size, totalBytes };
      } catch (error) {
        await rm(pack, { force: true });
        throw diskFullOr(error, `packing ${vmId}`);
      }
    },
    async observePass(vmId) {
      const pass = passes.get(vmId);
      if (pass === undefined) return null;
      const { sinceMs, ...rest } = pass;
      return { ...rest, elapsedMs: performance.now() - sinceMs };
    },
    async unpack(vmId, { address, bytes }) {
      const pack = `${packPath(vmId)}.in`;
      const fetched = { address, path: packPath(vmId), destination: pack, sizeBytes: bytes };
      const unpackedTo = (name: ColdCopyFile) => (name === 'memory' ? store.paths(vmId).memoryPartial : filePath(vmId, name));
      try {
        await trackPass(vmId, { kind: 'fetch', from: address }, bytes, (meter) => copyOverNfs({ ...fetched, progress: meter }));
        const kept = await readPreviousVersion(previousVersionFolder(vmId));
        await trackPass(vmId, { kind: 'unpack', from: address }, 0, (meter) => readPack(pack, kept, unpackedTo, meter));
      } catch (error) {
        if (!(error instanceof PreviousVersionDamaged)) throw diskFullOr(error, `unpacking ${vmId}`);
        // What it was to bring is in no pack: the next migration carries all.
        await rm(previousVersionFolder(vmId), { recursive: true, force: true });
        throw new BerthError('migration-refused', `unpacking ${vmId}: ${error.message}. That is removed; ask for it again`);
      } finally {
        await rm(pack, { force: true });
      }
      await store.commitMemory(vmId);
    },
    async keepPreviousVersion(vmId, files) {
      await keepPreviousVersion(
        previousVersionFolder(vmId),
        files.map((name) => ({ name, path: filePath(vmId, name) })),
        packPath(vmId),
      );
      await evictPreviousVersions(versions, budgetMiB);
    },
    async removeTransferFiles(vmId) {
      for (const path of [packPath(vmId), offerPath(vmId)]) await rm(path, { force: true });
    },
    async removeAll(vmId) {
      for (const path of [packPath(vmId), offerPath(vmId), previousVersionFolder(vmId)])
        await rm(path, { recursive: true, force: true });
    },
  };
}

/** Oldest first, until the rest fits; and what is too old in any case. */
async function evictPreviousVersions(versions: string, budgetMiB: number): Promise<void> {
  const kept: { path: string; bytes: number; atMs: number }[] = [];
  for (const entry of await readdir(versions, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const path = join(versions, entry.name);
    const sizes = await Promise.all((await readdir(path)).map(async (name) => (await stat(join(path, name))).blocks * 512));
    kept.push({ path, bytes: sizes.reduce((sum, size) => sum + size, 0), atMs: (await stat(path)).mtimeMs });
  }
  kept.sort((a, b) => b.atMs - a.atMs);
  let taken = 0;
  for (const { path, bytes, atMs } of kept) {
    taken += bytes;
    if (taken > budgetMiB * 2 ** 20 || Date.now() - atMs > previousVersionMaxAgeMs)
      await rm(path, { recursive: true, force: true });
  }
}
