import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from '../../model/log.ts';
import { discard, isErrno, listNames, readText, replaceDurably, statOrNull } from '../host/files.ts';
import type { VmStore } from '../ports/vm-store.ts';

export interface ImageEvictionOptions {
  root: string;
  budgetMiB: number;
  store: VmStore;
  log: Logger;
}

/** An image that was used this recently may be about to get an overlay. */
const recentUseMs = 15 * 60_000;

/** Until when an image is pinned, in ms since 1970. */
const pinFile = 'pinned-until';

async function pinnedUntil(folder: string): Promise<number> {
  return Number((await readText(join(folder, pinFile))) ?? 0);
}

/** Pins an image; an earlier pin until a later time holds. */
export async function pinImage(folder: string, untilMs: number): Promise<void> {
  if ((await pinnedUntil(folder)) < untilMs) await replaceDurably(join(folder, pinFile), `${untilMs}\n`);
}

/** A VM's record names its image before its overlay is made. An unreadable record may name any image. */
export async function isUsed({ store }: ImageEvictionOptions, id: string): Promise<boolean> {
  return (await store.list()).some(({ record }) => record === null || record.image === id);
}

interface CachedImageUsage {
  id: string;
  bytes: number;
  usedMs: number;
}

/**
 * Evicts the least recently used images until a new one fits into the budget. Never one that an overlay is made on or that
 * is pinned, nor one used minutes ago: then the budget is exceeded, and the disk's size is the bound. Returns whether it fits.
 */
export async function evictUnused(options: ImageEvictionOptions, neededBytes: number): Promise<boolean> {
  const { root, budgetMiB, log } = options;
  const images = join(root, 'images');
  const budgetBytes = budgetMiB * 2 ** 20;
  const cached: CachedImageUsage[] = [];
  for (const id of await listNames(images)) cached.push({ id, ...(await readUsage(join(images, id))) });
  let bytes = cached.reduce((sum, image) => sum + image.bytes, neededBytes);
  for (const image of cached.sort((a, b) => a.usedMs - b.usedMs)) {
    if (bytes <= budgetBytes) return true;
    if (Date.now() - image.usedMs < recentUseMs) continue;
    if ((await pinnedUntil(join(images, image.id))) > Date.now()) continue;
    // Checked for each image, right before its eviction.
    if (await isUsed(options, image.id)) continue;
    await discard(join(images, image.id), join(root, 'staging'));
    bytes -= image.bytes;
    log.info({ image: image.id, bytes: image.bytes }, 'an image left the cache');
  }
  return bytes <= budgetBytes;
}

/** What an image takes of the disk, with the templates made from it. A file that is removed meanwhile takes nothing. */
async function readUsage(folder: string): Promise<{ bytes: number; usedMs: number }> {
  let bytes = 0;
  let usedMs = 0;
  for (const entry of await listRecursively(folder)) {
    const path = join(entry.parentPath, entry.name);
    const stats = await statOrNull(path);
    bytes += (stats?.blocks ?? 0) * 512;
    if (path === join(folder, 'image.json')) usedMs = stats?.mtimeMs ?? 0;
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
