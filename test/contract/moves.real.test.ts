import { type MovesBench, movesContract } from './moves-suite.ts';
import { openRealHosts } from './real/bench.ts';

movesContract(
  'two real hosts',
  async () => {
    // So slow that a migration can be seen, and ended, in its middle.
    const { hosts, stop } = await openRealHosts(2, { BERTH_MIGRATION_MIB_PER_S: '40' });
    const benches = hosts.map((host): MovesBench => ({ ...host, address: host.host.address }));
    return { hosts: benches as [MovesBench, MovesBench], stop };
  },
  120_000,
);
