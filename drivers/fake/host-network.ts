import type { HostNetwork } from '../ports/host-network.ts';
import { bridgeOf, type FakeState } from './state.ts';

export function createFakeNetwork(state: FakeState): HostNetwork {
  const tapsOn = (bridge: string): string[] =>
    [...state.domains.values()].filter(({ config }) => config.nic.bridge === bridge).map(({ config }) => config.nic.tap);
  return {
    async ensure(network) {
      state.networks.set(network.vni, structuredClone(network));
      return bridgeOf(network.vni);
    },
    async removeIfIdle(vni, needed) {
      if (await needed()) return;
      if (tapsOn(bridgeOf(vni)).length === 0) state.networks.delete(vni);
    },
    list: async () => [...state.networks.keys()].map((vni) => ({ bridge: bridgeOf(vni), vni, taps: tapsOn(bridgeOf(vni)) })),
  };
}
