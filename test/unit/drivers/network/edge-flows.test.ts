import { expect, test } from 'vitest';
import { parseFlows } from '../../../../drivers/network/edge-flows.ts';

test('translated flows are read as conntrack lists them, each kind once', () => {
  const text = [
    'tcp      6 431999 ESTABLISHED src=10.77.0.254 dst=10.77.0.230 sport=53122 dport=20000 src=10.128.16.10 dst=10.128.19.254 sport=7000 dport=53122 [ASSURED] mark=0 use=1',
    'tcp      6 110 TIME_WAIT src=10.77.0.9 dst=10.77.0.230 sport=40000 dport=20000 src=10.128.16.10 dst=10.128.19.254 sport=7000 dport=40000 [ASSURED] mark=0 use=1',
    'udp      17 29 src=10.77.0.254 dst=10.77.0.231 sport=41000 dport=20001 [UNREPLIED] src=10.128.32.10 dst=10.128.35.254 sport=53 dport=41000 mark=0 use=1',
    'icmp     1 29 src=10.77.0.254 dst=10.77.0.230 type=8 code=0 id=7 src=10.77.0.230 dst=10.77.0.254 type=0 code=0 id=7 mark=0 use=1',
    'conntrack v1.4.7 (conntrack-tools): 4 flow entries have been shown.',
    '',
  ].join('\n');
  expect(parseFlows(text)).toEqual([
    { protocol: 'tcp', publicAddress: '10.77.0.230', publicPort: '20000', address: '10.128.16.10', port: '7000' },
    { protocol: 'udp', publicAddress: '10.77.0.231', publicPort: '20001', address: '10.128.32.10', port: '53' },
  ]);
});
