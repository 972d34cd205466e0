import type { NetworkRef } from '../../model/vm.ts';

export interface HostNetwork {
  /**
   * The owner's bridge and VXLAN on this host, flooding to the site's other machines; idempotent; returns the bridge's name.
   * Throws orders-unavailable where these are not known yet.
   */
  ensure(network: NetworkRef): Promise<string>;
  /** Has the networks of this host flood to the machines that the site has now. */
  updatePeers(): Promise<void>;
  /**
   * Removes an owner's bridge and VXLAN where no tap is left on the bridge and none is about to be added: `needed` is called
   * while no `ensure` of this network can run.
   */
  removeIfIdle(vni: number, needed: () => Promise<boolean>): Promise<void>;
  list(): Promise<{ bridge: string; vni: number; taps: string[] }[]>;
}
