import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, type Dirent } from 'node:fs';
import { open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type Dispatcher, request } from 'undici';
import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import type { Logger } from '../../model/log.ts';
import type { ContentRef, ImageRef } from '../../model/vm.ts';
import { diskFullOr, exists, isErrno, makeFolder, readText, replaceDurably, syncFolder, writeStream } from '../host/files.ts';
import { ProcessError } from '../host/run-process.ts';
import type { CachedImage, ImageCache } from '../ports/image-cache.ts';
import type { VmStore } from '../ports/vm-store.ts';
import { copyOverNfs } from './nfs-copy.ts';

export interface ImageCacheOptions {
  /** The host's folder; images/ and staging/ are in it, and in that of the peers, who export theirs over NFS. */
  root: string;
  budgetMiB: number;
  store: VmStore;
  repository: Dispatcher;
  log: Logger;
}

/** Smallest first: what is missing altogether shows early. */
const partNames = { initrd: 'initrd', kernel: 'kernel', disk: 'disk.qcow2' } as const;
type Part = keyof typeof partNames;
const parts = Object.keys(partNames) as Part[];

/** What an image consists of, in the order of `partNames`. */
function partsOf({ parts: blobs }: ImageRef): { part: Part; blob: ContentRef }[] {
  return parts.flatMap((part) => {
    const blob = blobs[part];
    return blob === null ? [] : [{ part, blob }];
  });
}

const bodyTimeoutMs = 60_000;
/** An image that was used this recently may be about to get an overlay. */
const recentUseMs = 15 * 60_000;

/** In the log, once for each transfer. */
export const imageCachedMessage = 'an image came into the cache';

type ImageSource = 'cache' | 'peer' | 'repository';

/**
 * Images by id under images/<id>/, complete and checked: they are collected in staging/ and renamed as a whole. What is
 * in the folder was verified; `image.json`'s time is that of the last use.
 */
export function openImageCache(options: ImageCacheOptions): ImageCache {
  const images = join(options.root, 'images');
  const transfers = new Map<string, Promise<{ from: ImageSource; bytes: number }>>();
  const folderOf = (id: string): string => {
    if (!/^[A-Za-z0-9_-]{1,96}$/.test(id)) throw new Error(`BUG: ${JSON.stringify(id)} can't name a folder`);
    return join(images, id);
  };

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
    await evictUnused(options, images, sizeBytes);
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
      // The transfer belongs to all who wait for it: one that is cancelled leaves it to the others.
      let shared = transfers.get(image.id);
      if (shared === undefined) {
        shared = transfer(image).finally(() => transfers.delete(image.id));
        transfers.set(image.id, shared);
      }
      return raceAbort(shared, signal);
    },
    async pin(id, untilMs) {
      const path = join(folderOf(id), pinFile);
      if ((await pinnedUntil(folderOf(id))) < untilMs) await replaceDurably(path, `${untilMs}\n`);
    },
    evictToFit: (bytes) => evictUnused(options, images, bytes),
    async remove(id) {
      const folder = folderOf(id);
      if (!(await exists(folder))) return;
      if (await isUsed(options, id))
        throw new BerthError('in-use', `removing image ${id}: a VM of this host was made from it; end that one first`);
      await discard(options, folder, id);
    },
    async list() {
      const found = await Promise.all(
        (await listNames(images)).map(async (id) => ((await exists(join(images, id, 'image.json'))) ? id : null)),
      );
      return found.filter((id) => id !== null) as ImageId[];
    },
  };
}

/** Another worker of this host may have been first: its copy has been checked as well as ours. */
async function publish(partial: string, folder: string): Promise<void> {
  try {
    await rename(partial, folder);
  } catch (error) {
    if (!isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw error;
  }
}

function raceAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

/** From the nearest peer that has it whole, else from the repository. */
async function fetchParts(options: ImageCacheOptions, image: ImageRef, folder: string): Promise<ImageSource> {
  for (const peer of image.peers) {
    try {
      for (const { part, blob } of partsOf(image))
        await fetchPartFromPeer(options, image, part, blob, peer, join(folder, partNames[part]));
      return 'peer';
    } catch (error) {
      if (!(error instanceof ProcessError) && !(error instanceof BerthError && error.code === 'image-damaged')) throw error;
      options.log.warn({ peer, image: image.id, error: error.message }, 'a peer could not give an image');
    }
  }
  for (const { part, blob } of partsOf(image)) await fetchPartFromRepository(options, image, blob, join(folder, partNames[part]));
  return 'repository';
}

async function fetchPartFromPeer(
  { root }: ImageCacheOptions,
  image: ImageRef,
  part: Part,
  blob: ContentRef,
  peer: string,
  destination: string,
): Promise<void> {
  const path = join(root, 'images', image.id, partNames[part]);
  await copyOverNfs({ address: peer, path, destination: destination, sizeBytes: blob.sizeBytes });
  await verify(image, blob, destination);
}

/** nfs-cp's word isn't enough: the bytes that are on this disk are read again. */
async function verify(image: ImageRef, blob: ContentRef, path: string): Promise<void> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer);
  requireDigest(image, blob, hash.digest('hex'), path);
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

function requireDigest(image: ImageRef, blob: ContentRef, found: string, path: string): void {
  if (found !== blob.sha256)
    throw new BerthError(
      'image-damaged',
      `fetching image ${image.name}: ${basename(path)} has sha256 ${found}, not ${blob.sha256}; it was not kept`,
    );
}

async function fetchPartFromRepository(
  { repository }: ImageCacheOptions,
  image: ImageRef,
  blob: ContentRef,
  destination: string,
): Promise<void> {
  const hash = createHash('sha256');
  const file = await open(destination, 'w', 0o644);
  try {
    let bytes = 0;
    await writeStream(file, await download(repository, image, blob), (chunk) => {
      bytes += chunk.length;
      if (bytes > blob.sizeBytes)
        throw new BerthError('image-damaged', `fetching image ${image.name}: more than ${blob.sizeBytes} bytes`);
      hash.update(chunk);
    });
    await file.sync();
  } catch (error) {
    if (error instanceof BerthError || isErrno(error, 'ENOSPC', 'EDQUOT', 'EIO', 'EROFS')) throw error;
    throw new BerthError('repository-unavailable', `fetching image ${image.name}: ${String(error)}`, { cause: error });
  } finally {
    await file.close();
  }
  requireDigest(image, blob, hash.digest('hex'), destination);
}

async function download(dispatcher: Dispatcher, image: ImageRef, blob: ContentRef): Promise<AsyncIterable<Buffer>> {
  const { statusCode, body } = await request(blob.url, { dispatcher, headersTimeout: bodyTimeoutMs, bodyTimeout: bodyTimeoutMs });
  if (statusCode === 200) return body;
  await body.dump();
  throw new BerthError('repository-unavailable', `fetching image ${image.name}: the repository answered ${statusCode}`);
}

/** Until when an image is kept, in ms since 1970. */
const pinFile = 'pinned-until';

async function pinnedUntil(folder: string): Promise<number> {
  return Number((await readText(join(folder, pinFile))) ?? 0);
}

/** A VM's record names its image before its overlay is made. A record that can't be read may name any. */
async function isUsed({ store }: ImageCacheOptions, id: string): Promise<boolean> {
  return (await store.list()).some(({ record }) => record === null || record.image === id);
}

/** Out of everybody's sight at once, then gone with all that was made of it. */
async function discard({ root }: ImageCacheOptions, folder: string, id: string): Promise<void> {
  const trash = join(root, 'staging', `${id}.${randomBytes(6).toString('hex')}.discarded`);
  await rename(folder, trash);
  await rm(trash, { recursive: true, force: true });
}

interface CachedImageUsage {
  id: string;
  bytes: number;
  usedMs: number;
}

/**
 * Drops the longest unused images until a new one fits into the budget. Never one that an overlay is made on or that is
 * pinned, nor one used minutes ago: then the budget is exceeded, and the disk's own size is the bound. Returns whether it fits.
 */
async function evictUnused(options: ImageCacheOptions, images: string, neededBytes: number): Promise<boolean> {
  const { budgetMiB, log } = options;
  const budgetBytes = budgetMiB * 2 ** 20;
  const cached: CachedImageUsage[] = [];
  for (const id of await listNames(images)) cached.push({ id, ...(await readUsage(join(images, id))) });
  let bytes = cached.reduce((sum, image) => sum + image.bytes, neededBytes);
  for (const image of cached.sort((a, b) => a.usedMs - b.usedMs)) {
    if (bytes <= budgetBytes) return true;
    if (Date.now() - image.usedMs < recentUseMs) continue;
    if ((await pinnedUntil(join(images, image.id))) > Date.now()) continue;
    // Asked for each, at the last moment.
    if (await isUsed(options, image.id)) continue;
    await discard(options, join(images, image.id), image.id);
    bytes -= image.bytes;
    log.info({ image: image.id, bytes: image.bytes }, 'an image left the cache');
  }
  return bytes <= budgetBytes;
}

/** What an image takes of the disk, with the templates beneath it. A file that goes meanwhile takes nothing. */
async function readUsage(folder: string): Promise<{ bytes: number; usedMs: number }> {
  let bytes = 0;
  let usedMs = 0;
  for (const entry of await listRecursively(folder)) {
    const path = join(entry.parentPath, entry.name);
    try {
      const { blocks, mtimeMs } = await stat(path);
      bytes += blocks * 512;
      if (path === join(folder, 'image.json')) usedMs = mtimeMs;
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
    }
  }
  return { bytes, usedMs };
}

async function listRecursively(folder: string): Promise<Dirent[]> {
  try {
    return await readdir(folder, { recursive: true, withFileTypes: true });
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

async function listNames(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}
