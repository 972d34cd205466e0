import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { BerthError } from '../../model/errors.ts';
import type { ColdCopyPass } from '../../model/migration.ts';
import { allocatedBytes, diskFullOr } from '../host/files.ts';
import { vmFilePath } from '../host/vm-paths.ts';
import type { ColdCopy } from '../ports/cold-copy.ts';
import type { VmStore } from '../ports/vm-store.ts';
import { readEntries } from './file-chunks.ts';
import { copyOverNfs } from './nfs-copy.ts';
import { type PassProgress, PreviousVersionDamaged, readPack, writePack } from './pack.ts';
import { keepPreviousVersion, readPreviousVersion } from './previous-version.ts';

/** A previous version that no migration has used in a day takes space, and is its owner's data. */
const previousVersionMaxAgeMs = 24 * 3600 * 1000;

/**
 * Transfers VMs as files from host to host: chunks that the target still has of a previous version aren't transferred, and
 * the rest is compressed. A pack is a file that the target reads over NFS: a host worker needs no other server.
 * @param budgetMiB what all previous versions on this host may take together
 */
export function openColdCopy(root: string, store: VmStore, budgetMiB: number): ColdCopy {
  const versions = join(root, 'versions');
  const previousVersionFolder = (vmId: string): string => join(versions, vmId);
  const offerPath = (vmId: string): string => join(versions, `${vmId}.have`);
  const packPath = (vmId: string): string => join(versions, `${vmId}.pack`);
  const filePath = (vmId: string, file: ColdCopyFile): string => vmFilePath(store.paths(vmId), file);

  const passes = new Map<string, Omit<ColdCopyPass, 'elapsedMs'> & { sinceMs: number }>();
  async function trackPass<T>(
    vmId: string,
    what: Pick<ColdCopyPass, 'kind' | 'from'>,
    totalBytes: number,
    act: (progress: PassProgress) => Promise<T>,
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
      for (const { chunks } of await readPreviousVersion(previousVersionFolder(vmId)))
        for (const { hash } of readEntries(chunks.entries)) hashes.add(hash);
      await writeFile(offerPath(vmId), Buffer.from([...hashes].join(''), 'hex'), { mode: 0o600 });
      return { chunks: hashes.size };
    },
    async pack(vmId, files, offer) {
      await mkdir(versions, { recursive: true, mode: 0o700 });
      const pack = packPath(vmId);
      const cachedChunks = new Set<string>();
      if (offer !== null && offer.chunks > 0) {
        const hashes = `${pack}.have`;
        await copyOverNfs({ address: offer.address, path: offerPath(vmId), destination: hashes, sizeBytes: offer.chunks * 16 });
        const bytes = await readFile(hashes);
        for (let at = 0; at < bytes.length; at += 16) cachedChunks.add(bytes.toString('hex', at, at + 16));
        await rm(hashes);
      }
      try {
        const named = files.map((name) => ({ name, path: filePath(vmId, name) }));
        const totalBytes = await trackPass(vmId, { kind: 'pack', from: null }, 0, (progress) =>
          writePack(pack, named, cachedChunks, progress),
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
        await trackPass(vmId, { kind: 'fetch', from: address }, bytes, (progress) => copyOverNfs({ ...fetched, progress }));
        const previous = await readPreviousVersion(previousVersionFolder(vmId));
        await trackPass(vmId, { kind: 'unpack', from: address }, 0, (progress) => readPack(pack, previous, unpackedTo, progress));
      } catch (error) {
        if (!(error instanceof PreviousVersionDamaged)) throw diskFullOr(error, `unpacking ${vmId}`);
        // The pack lacks the chunks of that version. Without it the next migration transfers all.
        await rm(previousVersionFolder(vmId), { recursive: true, force: true });
        throw new BerthError(
          'migration-refused',
          `unpacking ${vmId}: ${error.message}. It is removed; request the migration again`,
        );
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
  };
}

/** Removes previous versions, oldest first, until the rest fits into the budget; and those that are too old in any case. */
async function evictPreviousVersions(versions: string, budgetMiB: number): Promise<void> {
  const found: { path: string; bytes: number; usedMs: number }[] = [];
  for (const entry of await readdir(versions, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const path = join(versions, entry.name);
    const bytes = await allocatedBytes(...(await readdir(path)).map((name) => join(path, name)));
    found.push({ path, bytes, usedMs: (await stat(path)).mtimeMs });
  }
  found.sort((a, b) => b.usedMs - a.usedMs);
  let totalBytes = 0;
  for (const { path, bytes, usedMs } of found) {
    totalBytes += bytes;
    if (totalBytes > budgetMiB * 2 ** 20 || Date.now() - usedMs > previousVersionMaxAgeMs)
      await rm(path, { recursive: true, force: true });
  }
}
