import { randomBytes } from 'node:crypto';
import { rename, rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageSource } from '../../contracts/host.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import type { ImageRef } from '../../model/vm.ts';
import {
  discard,
  diskFullOr,
  exists,
  isErrno,
  listNames,
  makeFolder,
  replaceDurably,
  requireFolderName,
  syncFolder,
} from '../host/files.ts';
import { raceAbort } from '../host/race-abort.ts';
import type { CachedImage, ImageCache } from '../ports/image-cache.ts';
import { evictUnused, type ImageEvictionOptions, isUsed, pinImage } from './image-eviction.ts';
import { fetchParts, type ImageTransferOptions, partNames, partsOf } from './image-transfer.ts';

/** Logged once for each transfer. */
export const imageCachedMessage = 'an image came into the cache';

/**
 * Images by id under images/<id>/, complete and verified: their parts are fetched into a folder of staging/, which is
 * renamed. The modification time of `image.json` is that of the last use.
 */
export function openImageCache(options: ImageTransferOptions & ImageEvictionOptions): ImageCache {
  const images = join(options.root, 'images');
  const transfers = new Map<string, Promise<{ from: ImageSource; bytes: number }>>();
  const folderOf = (id: string): string => join(images, requireFolderName(id));

  async function find(id: ImageId): Promise<CachedImage | null> {
    const folder = folderOf(id);
    const now = new Date();
    try {
      await utimes(join(folder, 'image.json'), now, now);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return null;
      throw error;
    }
    const [kernel, initrd] = [join(folder, partNames.kernel), join(folder, partNames.initrd)];
    const boots = await exists(kernel);
    return { disk: join(folder, partNames.disk), kernel: boots ? kernel : null, initrd: boots ? initrd : null };
  }

  async function transfer(image: ImageRef): Promise<{ from: ImageSource; bytes: number }> {
    const sizeBytes = partsOf(image).reduce((sum, { blob }) => sum + blob.sizeBytes, 0);
    await evictUnused(options, sizeBytes);
    const partial = join(options.root, 'staging', `${image.id}.${randomBytes(6).toString('hex')}.partial`);
    await makeFolder(partial, 0o755);
    try {
      const from = await fetchParts(options, image, partial);
      await replaceDurably(
        join(partial, 'image.json'),
        `${JSON.stringify({ id: image.id, name: image.name, digest: image.digest })}\n`,
      );
      await makeFolder(images, 0o755);
      await publish(partial, folderOf(image.id));
      await syncFolder(images);
      options.log.info({ image: image.id, from, bytes: sizeBytes }, imageCachedMessage);
      return { from, bytes: sizeBytes };
    } catch (error) {
      throw diskFullOr(error, `fetching image ${image.name}`);
    } finally {
      await rm(partial, { recursive: true, force: true });
    }
  }

  return {
    find,
    async ensure(image, signal) {
      if ((await find(image.id)) !== null) return { from: 'cache', bytes: 0 };
      // All callers share a transfer: when one is cancelled, the transfer continues for the others.
      let shared = transfers.get(image.id);
      if (shared === undefined) {
        shared = transfer(image).finally(() => transfers.delete(image.id));
        transfers.set(image.id, shared);
      }
      return raceAbort(shared, signal);
    },
    pin: (id, untilMs) => pinImage(folderOf(id), untilMs),
    evictToFit: (bytes) => evictUnused(options, bytes),
    async remove(id) {
      const folder = folderOf(id);
      if (!(await exists(folder))) return;
      if (await isUsed(options, id))
        throw new BerthError('in-use', `removing image ${id}: a VM of this host was made from it; remove that VM first`);
      await discard(folder, join(options.root, 'staging'));
    },
    async list() {
      const found = await Promise.all(
        (await listNames(images)).map(async (id) => ((await exists(join(images, id, 'image.json'))) ? id : null)),
      );
      return found.filter((id) => id !== null) as ImageId[];
    },
  };
}

/** Another worker of this host may have published it first: its copy is verified, too. */
async function publish(partial: string, folder: string): Promise<void> {
  try {
    await rename(partial, folder);
  } catch (error) {
    if (!isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw error;
  }
}
