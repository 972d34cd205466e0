/** How a site runs its leases. Everything that costs time is a figure here, measured on the site that it is for. */
export interface Policy {
  /**
   * Who may overtake: `none`: nobody; `aggressive`: who does not delay the first that waits;
   * `conservative`: who delays nobody that waits.
   */
  backfilling: 'none' | 'aggressive' | 'conservative';
  /** Suspend best-effort work that a reservation displaces; without, it is stopped and starts anew. */
  suspension: boolean;
  /** Memory written and read per second; a host suspends or resumes one VM at a time. */
  suspendMiBPerS: number;
  /** What moves when suspended work resumes elsewhere: its memory, its memory and disk; or it stays. */
  migration: 'none' | 'memory' | 'memoryAndDisk';
  /** Between two hosts. */
  networkMiBPerS: number;
  /** null: images are where they are needed already. */
  images: null | {
    /** Of the repository's one link; it sends one image at a time, to any number of hosts at once. */
    rateMiBPerS: number;
    /** What a host keeps of images that it received. 0: each lease brings its own copy. */
    cacheMiB: number;
    /** One transfer may serve several leases. */
    shared: boolean;
  };
  /** Best-effort work takes this much longer in a VM: 0.1 is 10 %. */
  runtimeOverhead: number;
  /** From the start of a VM to the start of its work. */
  bootS: number;
  /** A reservation's image is there, and its hosts are vacated, this much before its start. */
  marginS: number;
}

const bare: Policy = {
  backfilling: 'aggressive',
  suspension: false,
  suspendMiBPerS: 32,
  migration: 'none',
  // 100 Mbit/s carries the 600 MB of an image in 48 s.
  networkMiBPerS: 12.5,
  images: null,
  runtimeOverhead: 0,
  bootS: 0,
  marginS: 0,
};
const vm: Policy = { ...bare, runtimeOverhead: 0.1 };
const transferred: Policy = { ...vm, images: { rateMiBPerS: 12.5, cacheMiB: 0, shared: false } };
const cached: Policy = {
  ...vm,
  suspension: true,
  migration: 'memoryAndDisk',
  images: { rateMiBPerS: 12.5, cacheMiB: 6000, shared: false },
};

/** By name: those of test/traces/haizea.csv, then those of Sotomayor's paper (its caches hold 3 images of 600 MB). */
export const configurations: Record<string, Policy> = {
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
