import { describe, expect, test } from 'vitest';
import { ganeshaConf, type HostConfig, hostRules, libvirtdConf, qemuConf } from '../../../infra/site/host/host-config.ts';
import { machineRules, removalOf } from '../../../infra/site/network.ts';

const host: HostConfig = {
  address: '10.90.7.11',
  peers: ['10.90.7.12', '10.90.7.13'],
  edges: ['10.90.7.221'],
  uuid: '0a1b2c3d-0000-4000-8000-000000000001',
  confine: false,
};

describe('the configuration of a host', () => {
  test('NFS grants nothing to unknown machines, and the disk to the peers', () => {
    const text = ganeshaConf(host);
    expect(text).toContain('EXPORT_DEFAULTS { Access_Type = None;');
    expect(text.match(/CLIENT/g)).toHaveLength(1);
    expect(text).toContain('CLIENT { Clients = 10.90.7.12, 10.90.7.13; Access_Type = RW;');
    expect(text).toContain('PrivilegedPort = true;');
    expect(text.match(/Attr_Expiration_Time = 0/g)).toHaveLength(2);
  });

  test('a host without peers exports to no machine', () => {
    expect(ganeshaConf({ ...host, peers: [] })).not.toContain('CLIENT');
  });

  test('libvirt listens on the hosts network alone, and both ends detect a lost peer', () => {
    expect(libvirtdConf(host)).toContain('listen_addr = "10.90.7.11"');
    for (const text of [libvirtdConf(host), qemuConf(host)]) {
      expect(text).toContain('keepalive_interval = 2');
      expect(text).toContain('keepalive_count = 5');
    }
  });

  test('a dedicated machine keeps what confines guests', () => {
    expect(qemuConf({ ...host, confine: true })).not.toContain('security_driver');
    expect(qemuConf(host)).toContain('security_driver = "none"');
  });

  test('the last rule drops, and only peers and answers are accepted before it', () => {
    const rules = hostRules(host, 'eth0', [])
      .split('\n')
      .filter((line) => line.startsWith('-A'));
    expect(rules.at(-1)).toBe('-A BERTH-HOST -j DROP');
    const ofEdges = rules.filter((rule) => rule.includes('10.90.7.221'));
    expect(ofEdges).toEqual(['-A BERTH-HOST -i eth0 -s 10.90.7.221 -p udp -m multiport --dports 4789 -j ACCEPT']);
    const others = rules.slice(0, -1).filter((rule) => !ofEdges.includes(rule));
    for (const rule of others) expect(rule).toMatch(/-i lo|--ctstate ESTABLISHED,RELATED|-s 10\.90\.7\.1[23] /);
  });
});

describe('the rules on the machine of a local site', () => {
  const network = { bridge: 'berth-abc123', subnet: '10.90.7', cidr: '10.90.7.0/24', gateway: '10.90.7.1' };

  test('each carries the comment by which it is removed', () => {
    const rules = machineRules('abc123', network, { gateway: [8080], local: [7233] })
      .split('\n')
      .filter((line) => line.startsWith('-'));
    for (const rule of rules) expect(rule).toContain('--comment "berth site abc123"');
  });

  test('removal deletes what has the comment, and nothing else', () => {
    const saved = [
      '*filter',
      ':INPUT ACCEPT [0:0]',
      '-A INPUT -i berth-abc123 -m comment --comment "berth site abc123" -j DROP',
      '-A INPUT -i berth-abc124 -m comment --comment "berth site abc124" -j DROP',
      '-A INPUT -p tcp --dport 22 -j ACCEPT',
      'COMMIT',
      '*nat',
      '-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE',
      'COMMIT',
    ].join('\n');
    expect(removalOf(saved, 'berth site abc123')).toBe(
      '*filter\n-D INPUT -i berth-abc123 -m comment --comment "berth site abc123" -j DROP\nCOMMIT\n',
    );
    expect(removalOf(saved, 'berth site none')).toBe('');
  });
});
