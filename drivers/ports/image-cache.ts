import type { ImageSource } from '../../contracts/host.ts';
import type { ImageId } from '../../model/ids.ts';
import type { ImageRef } from '../../model/vm.ts';

export interface CachedImage {
  disk: string;
  /** null where the image boots by its disk. */
  kernel: string | null;
  initrd: string | null;
}

export interface ImageCache {
  /** Returns at once where the cache has it; concurrent callers share a transfer. `image-damaged`, `input-unavailable`, `disk-full`. */
  ensure(image: ImageRef, signal: AbortSignal): Promise<{ from: ImageSource; bytes: number }>;
  /** Paths of an image in the cache; counts as a use of it. null where the cache doesn't have it. */
  find(id: ImageId): Promise<CachedImage | null>;
  list(): Promise<ImageId[]>;
  /** Keeps a cached image until this time, whatever the budget is; an earlier pin until a later time holds. */
  pin(id: ImageId, untilMs: number): Promise<void>;
  /** Evicts the least recently used images until this many bytes fit; returns whether they do. */
  evictToFit(bytes: number): Promise<boolean>;
  /** Removes an image and its templates; `in-use` while a VM of this host needs it. Succeeds also where it isn't cached. */
  remove(id: ImageId): Promise<void>;
}
