import { describe, expect, it } from 'vitest';
import { firewallRules } from '../../../../drivers/network/guest-firewall.ts';
import { siteHosts } from '../../../../drivers/network/site-hosts.ts';
import { parseReachException } from '../../../../model/network/reach-exception.ts';

const reach = {
  hostsCidr: '10.77.0.0/24',
  guestSupernet: '10.128.0.0/9',
  nameservers: ['10.255.255.53'],
  site: ['203.0.113.7', '198.51.100.0/28'],
  exceptions: ['10.50.0.0/16', '192.168.7.4:443/tcp', '172.16.3.0/24:8000-8080'].map(parseReachException),
};
const jumps = { filter: ['-I FORWARD 1 -j BERTH-GUEST'], nat: [] };

describe("the rules for guests' packets", () => {
  const rules = firewallRules(reach, jumps).split('\n');
  const index = (rule: string): number => {
    const at = rules.indexOf(rule);
    expect([rule, at >= 0]).toEqual([rule, true]);
    return at;
  };

  it('are one transaction for each table, with the jumps to them', () => {
    expect(rules.filter((rule) => !rule.startsWith('-A'))).toEqual([
      '*filter',
      ':BERTH-GUEST - [0:0]',
      ':BERTH-GUEST-IN - [0:0]',
      '-I FORWARD 1 -j BERTH-GUEST',
      'COMMIT',
      '*nat',
      ':BERTH-GUEST - [0:0]',
      'COMMIT',
      '',
    ]);
  });

  it('open the DNS ports of the resolvers, then refuse the site, then open the exceptions, then refuse the rest', () => {
    const guests = '-A BERTH-GUEST -i bg+';
    expect(rules.filter((rule) => rule.startsWith(guests)).map((rule) => rule.slice(guests.length + 1))).toEqual([
      '! -o bg+ -s 10.128.0.0/9 -d 10.255.255.53 -p udp --dport 53 -j ACCEPT',
      '! -o bg+ -s 10.128.0.0/9 -d 10.255.255.53 -p tcp --dport 53 -j ACCEPT',
      '-o bg+ -j DROP',
      '! -s 10.128.0.0/9 -j DROP',
      '-d 10.128.0.0/9 -j DROP',
      '-d 10.77.0.0/24 -j DROP',
      '-d 203.0.113.7 -j DROP',
      '-d 198.51.100.0/28 -j DROP',
      '-d 10.50.0.0/16 -j ACCEPT',
      '-d 192.168.7.4/32 -p tcp --dport 443:443 -j ACCEPT',
      '-d 172.16.3.0/24 -p tcp --dport 8000:8080 -j ACCEPT',
      '-d 172.16.3.0/24 -p udp --dport 8000:8080 -j ACCEPT',
      '-d 10.0.0.0/8 -j DROP',
      '-d 172.16.0.0/12 -j DROP',
      '-d 192.168.0.0/16 -j DROP',
      '-d 100.64.0.0/10 -j DROP',
      '-d 169.254.0.0/16 -j DROP',
      '-j ACCEPT',
    ]);
    index('-A BERTH-GUEST-IN -i bg+ -j DROP');
  });

  it('accept nothing inbound that no guest requested', () => {
    const answers = index('-A BERTH-GUEST -o bg+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT');
    expect(index('-A BERTH-GUEST -o bg+ -j DROP')).toBe(answers + 1);
  });
});

describe('the services that a host knows', () => {
  it.each([
    ['temporal.example.net:7233', 'http://10.20.0.5:8080', ['temporal.example.net', '10.20.0.5']],
    ['10.20.0.5:7233', 'https://10.20.0.5/', ['10.20.0.5']],
    ['[2001:db8::5]:7233', 'http://api.example.net', ['2001:db8::5', 'api.example.net']],
  ])('are those of %s and %s', (temporal, api, hosts) => {
    expect(siteHosts(temporal, api)).toEqual(hosts);
  });
});
