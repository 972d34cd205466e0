import { createHash } from 'node:crypto';
import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import type { ImageCache } from '../ports/image-cache.ts';
import { bug, type FakeState, imagePath } from './state.ts';

const digest = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

export function createFakeImageCache(state: FakeState): ImageCache {
  return {
    async ensure(image, signal) {
      signal.throwIfAborted();
      if (state.images.has(image.id)) return { from: 'cache', bytes: 0 };
      let bytes = 0;
      for (const part of Object.values(image.parts)) {
        if (part === null) continue;
        const content = state.repository.sources.get(part.url);
        if (content === undefined)
          throw new BerthError('repository-unavailable', `fetching ${image.name}: nothing at ${part.url}`);
        if (digest(content) !== part.sha256)
          throw new BerthError('image-damaged', `fetching ${image.name}: ${part.url} does not have its digest`);
        bytes += content.length;
      }
      state.peersOffered.set(image.id, image.peers);
      state.images.set(image.id, { boots: image.parts.kernel !== null, pinnedUntilMs: 0 });
      return { from: 'repository', bytes };
    },
    async find(id) {
      const image = state.images.get(id);
      if (image === undefined) return null;
      const at = (part: string) => (image.boots ? imagePath(id, part) : null);
      return { disk: imagePath(id, 'disk.qcow2'), kernel: at('kernel'), initrd: at('initrd') };
    },
    list: async () => [...state.images.keys()] as ImageId[],
    async pin(id, untilMs) {
      const image = state.images.get(id);
      if (image === undefined) throw bug(`pinning image ${id}, which isn't there`);
      image.pinnedUntilMs = Math.max(image.pinnedUntilMs, untilMs);
    },
    evictToFit: async () => !state.cacheFull.now,
    async remove(id) {
      if ([...state.records.values()].some((record) => record.image === id))
        throw new BerthError('in-use', `removing image ${id}: a VM of this host was made from it`);
      state.images.delete(id);
    },
  };
}
