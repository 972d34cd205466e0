import type { NetworkRef } from '../../model/vm.ts';

export interface HostNetwork {
  /** The owner's bridge and VXLAN on this host, and its peers; idempotent; returns the bridge's name. */
  ensure(network: NetworkRef): Promise<string>;
  /**
   * Removes an owner's bridge and VXLAN where no tap is left on the bridge and none is about to be added: `needed` is called
   * while no `ensure` of this network can run.
   */
  removeIfIdle(vni: number, needed: () => Promise<boolean>): Promise<void>;
  list(): Promise<{ bridge: string; vni: number; taps: string[] }[]>;
}
