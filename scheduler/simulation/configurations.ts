import type { Policy } from '../leases/site-policy.ts';

/** How the repository sends images to hosts. */
export interface ImagePolicy {
  /** Rate of the repository's one link, which sends one image at a time, to any number of hosts at once. */
  rateMiBPerS: number;
  /** The space on a host for images that it received. 0: each lease needs its own copy. */
  cacheMiB: number;
  /** One transfer may serve several leases. */
  shared: boolean;
}

export interface SimulationPolicy extends Policy {
  /** null: all hosts have all images from the beginning. */
  images: ImagePolicy | null;
}

const bare: SimulationPolicy = {
  backfilling: 'aggressive',
  suspension: false,
  suspendMiBPerS: 32,
  migration: 'none',
  // 100 Mbit/s: the 600 MB of an image take 48 s.
  networkMiBPerS: 12.5,
  images: null,
  runtimeOverhead: 0,
  bootS: 0,
  marginS: 0,
};
const vm: SimulationPolicy = { ...bare, runtimeOverhead: 0.1 };
const transferred: SimulationPolicy = { ...vm, images: { rateMiBPerS: 12.5, cacheMiB: 0, shared: false } };
const cached: SimulationPolicy = {
  ...vm,
  suspension: true,
  migration: 'memoryAndDisk',
  images: { rateMiBPerS: 12.5, cacheMiB: 6000, shared: false },
};

/** By name: those of test/traces/haizea.csv, then those of Sotomayor's paper (its caches hold 3 images of 600 MB). */
export const configurations: Record<string, SimulationPolicy> = {
  novm: bare,
  'novm-nobackfill': { ...bare, backfilling: 'none' },
  'novm-conservative': { ...bare, backfilling: 'conservative' },
  'predeploy-nosusp': vm,
  'predeploy-susp': { ...vm, suspension: true, migration: 'memoryAndDisk' },
  'transfer-nosusp': transferred,
  'transfer-susp': { ...transferred, suspension: true, migration: 'memoryAndDisk' },
  'cacheonly-susp': cached,
  'reuse-susp': { ...cached, images: { rateMiBPerS: 12.5, cacheMiB: 6000, shared: true } },
  noVM_nosuspend: bare,
  VM_nosuspend: { ...transferred, runtimeOverhead: 0 },
  VM_nosuspend_ov10: transferred,
  VM_suspend_ov10: { ...transferred, suspension: true, migration: 'memoryAndDisk' },
  VM_suspend_cache_ov10: { ...cached, images: { rateMiBPerS: 12.5, cacheMiB: 1800, shared: false } },
};
