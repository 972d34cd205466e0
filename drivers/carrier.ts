import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BerthError } from '../model/errors.ts';
import type { CopyPass } from '../model/migration.ts';
import { diskFullOr } from './files.ts';
import { keptVersion, putAside } from './kept-version.ts';
import { copyOverNfs } from './nfs-copy.ts';
import { KeptDamaged, type Meter, readEntries, readPack, writePack } from './pack.ts';
import type { CarriedFile, Carrier, VmStore } from './ports.ts';

/** An old version that nobody came back for in a day is only in the way, and somebody's data. */
const keptForMs = 24 * 3600 * 1000;

/**
 * VMs as files, from host to host: what the target still has of an earlier version isn't carried again, and the rest is
 * compressed. The pack is a file: nothing connects into a host worker but the NFS that is there.
 * @param budgetMiB what versions kept of VMs that went elsewhere may take together
 */
export function openCarrier(root: string, store: VmStore, budgetMiB: number): Carrier {
  const versions = join(root, 'versions');
  const keptIn = (vmId: string): string => join(versions, vmId);
  const offerOf = (vmId: string): string => join(versions, `${vmId}.have`);
  const packOf = (vmId: string): string => join(root, 'versions', `${vmId}.pack`);
  const placeOf = (vmId: string, file: CarriedFile): string => {
    const paths = store.paths(vmId);
    if (file === 'memory' || file === 'overlay' || file === 'data') return paths[file];
    return join(paths.folder, `${file}.raw`);
  };

  const passes = new Map<string, Omit<CopyPass, 'elapsedMs'> & { sinceMs: number }>();
  async function passing<T>(
    vmId: string,
    what: Pick<CopyPass, 'kind' | 'from'>,
    totalBytes: number,
    act: (meter: Meter) => Promise<T>,
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
    async offer(vmId) {
      await mkdir(versions, { recursive: true, mode: 0o700 });
      const hashes = new Set<string>();
      for (const { recipe } of await keptVersion(keptIn(vmId)))
        for (const { hash } of readEntries(recipe.entries)) hashes.add(hash);
      await writeFile(offerOf(vmId), Buffer.from([...hashes].join(''), 'hex'), { mode: 0o600 });
      return { chunks: hashes.size };
    },
    async pack(vmId, files, offer) {
      await mkdir(versions, { recursive: true, mode: 0o700 });
      const pack = packOf(vmId);
      const have = new Set<string>();
      if (offer !== null && offer.chunks > 0) {
        const copy = `${pack}.have`;
        await copyOverNfs({ address: offer.address, path: offerOf(vmId), to: copy, sizeBytes: offer.chunks * 16 });
        const bytes = await readFile(copy);
        for (let at = 0; at < bytes.length; at += 16) have.add(bytes.toString('hex', at, at + 16));
        await rm(copy);
      }
      try {
        const named = files.map((name) => ({ name, path: placeOf(vmId, name) }));
        const totalBytes = await passing(vmId, { kind: 'pack', from: null }, 0, (meter) => writePack(pack, named, have, meter));
        return { bytes: (await stat(pack)).size, totalBytes };
      } catch (error) {
        await rm(pack, { force: true });
        throw diskFullOr(error, `packing ${vmId}`);
      }
    },
    async pass(vmId) {
      const pass = passes.get(vmId);
      if (pass === undefined) return null;
      const { sinceMs, ...rest } = pass;
      return { ...rest, elapsedMs: performance.now() - sinceMs };
    },
    async unpack(vmId, { address, bytes }) {
      const pack = `${packOf(vmId)}.in`;
      const fetched = { address, path: packOf(vmId), to: pack, sizeBytes: bytes };
      const unpackedTo = (name: CarriedFile) => (name === 'memory' ? store.paths(vmId).memoryPartial : placeOf(vmId, name));
      try {
        await passing(vmId, { kind: 'fetch', from: address }, bytes, (meter) => copyOverNfs({ ...fetched, meter }));
        const kept = await keptVersion(keptIn(vmId));
        await passing(vmId, { kind: 'unpack', from: address }, 0, (meter) => readPack(pack, kept, unpackedTo, meter));
      } catch (error) {
        if (!(error instanceof KeptDamaged)) throw diskFullOr(error, `unpacking ${vmId}`);
        // What it was to bring is in no pack: the next migration carries all.
        await rm(keptIn(vmId), { recursive: true, force: true });
        throw new BerthError('migration-refused', `unpacking ${vmId}: ${error.message}. That is removed; ask for it again`);
      } finally {
        await rm(pack, { force: true });
      }
      await store.sealMemory(vmId);
    },
    async keep(vmId, files) {
      await putAside(
        keptIn(vmId),
        files.map((name) => ({ name, path: placeOf(vmId, name) })),
        packOf(vmId),
      );
      await trim(versions, budgetMiB);
    },
    async clear(vmId) {
      for (const path of [packOf(vmId), offerOf(vmId)]) await rm(path, { force: true });
    },
    async forget(vmId) {
      for (const path of [packOf(vmId), offerOf(vmId), keptIn(vmId)]) await rm(path, { recursive: true, force: true });
    },
  };
}

/** Oldest first, until the rest fits; and what is too old in any case. */
async function trim(versions: string, budgetMiB: number): Promise<void> {
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
    if (taken > budgetMiB * 2 ** 20 || Date.now() - atMs > keptForMs) await rm(path, { recursive: true, force: true });
  }
}
