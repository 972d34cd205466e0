import type { ImageDelivery } from './plan-state.ts';

/**
 * On a site each lease's own workflow fetches its image within the lease's lead time, so no plan depends on images. The
 * simulator has another implementation: a repository with one link and hosts with limited caches
 * (scheduler/simulation/images).
 */
export const imagesInPlace: ImageDelivery = {
  areInPlace: true,
  sizeRefusal: () => null,
  isAtHost: () => true,
  transferS: () => 0,
  linkFreeAt: (now) => now,
  fitInTime: () => true,
  latestStart: () => Number.POSITIVE_INFINITY,
  isReceiving: () => false,
  isAwaited: () => false,
  isStaged: () => false,
  migratedMiB: () => 0,
  onCreated: () => {},
  onUsed: () => {},
  onMigrated: () => {},
  onRequeued: () => {},
  onEnded: () => {},
};
