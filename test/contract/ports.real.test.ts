import { openRealHosts } from './real/bench.ts';
import { portsContract } from './suite.ts';

portsContract(
  'a real host',
  async () => {
    const { hosts, stop } = await openRealHosts(1);
    return { ...hosts[0]!, close: stop };
  },
  120_000,
);
