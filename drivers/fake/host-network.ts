import { bridgeName } from '../network/addressing.ts';
import type { HostNetwork } from '../ports/host-network.ts';
import type { FakeState } from './state.ts';

export function createFakeNetwork(state: FakeState): HostNetwork {
  const tapsOn = (bridge: string): string[] =>
    [...state.domains.values()].filter(({ config }) => config.nic.bridge === bridge).map(({ config }) => config.nic.tap);
  return {
    async ensure(network) {
      state.networks.set(network.vni, structuredClone(network));
      return bridgeName(network.vni);
    },
    // Frames between fakes need no list.
    updatePeers: async () => undefined,
    async removeIfIdle(vni, needed) {
      if (await needed()) return;
      if (tapsOn(bridgeName(vni)).length === 0) state.networks.delete(vni);
    },
    list: async () => [...state.networks.keys()].map((vni) => ({ bridge: bridgeName(vni), vni, taps: tapsOn(bridgeName(vni)) })),
  };
}
