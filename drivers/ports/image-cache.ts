import type { ImageId } from '../../model/ids.ts';
import type { ImageRef } from '../../model/vm.ts';

export interface CachedImage {
  disk: string;
  /** null where the image boots by its disk. */
  kernel: string | null;
  initrd: string | null;
}

export interface ImageCache {
  /** At once when it is there; one transfer however many ask. `image-damaged`, `input-unavailable`, `disk-full`. */
  ensure(image: ImageRef, signal: AbortSignal): Promise<{ from: 'cache' | 'peer' | 'repository'; bytes: number }>;
  /** Paths of an image in the cache, which count as a use of it; null when it isn't there. */
  find(id: ImageId): Promise<CachedImage | null>;
  list(): Promise<ImageId[]>;
  /** Keeps an image that is there until this moment, whatever the budget says; a later one that was said before holds. */
  pin(id: ImageId, untilMs: number): Promise<void>;
  /** Drops what was not used for long until this much fits as well; returns whether it does. */
  evictToFit(bytes: number): Promise<boolean>;
  /** Removes an image and all that was made of it; `in-use` while a VM of this host needs it. Success when it isn't there. */
  remove(id: ImageId): Promise<void>;
}
