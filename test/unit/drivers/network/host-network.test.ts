import { describe, expect, it } from 'vitest';
import { firewallRules } from '../../../../drivers/network/host-network.ts';

describe("the rules for guests' packets", () => {
  const rules = firewallRules({
    address: '10.77.0.1',
    hostsCidr: '10.77.0.0/24',
    guestSupernet: '10.128.0.0/9',
    nameservers: ['10.255.255.53'],
  }).split('\n');
  const index = (rule: string): number => {
    const at = rules.indexOf(rule);
    expect([rule, at >= 0]).toEqual([rule, true]);
    return at;
  };

  it('drop packets to the hosts, to other owners and to metadata before anything is accepted', () => {
    const accept = index('-A BERTH-GUEST -i bg+ -j ACCEPT');
    for (const drop of ['-o bg+', '-d 10.128.0.0/9', '-d 10.77.0.0/24', '-d 169.254.0.0/16', '! -s 10.128.0.0/9'])
      expect(index(`-A BERTH-GUEST -i bg+ ${drop} -j DROP`)).toBeLessThan(accept);
    index('-A BERTH-GUEST-IN -i bg+ -j DROP');
  });

  it('accept nothing inbound that no guest requested', () => {
    const answers = index('-A BERTH-GUEST -o bg+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT');
    expect(index('-A BERTH-GUEST -o bg+ -j DROP')).toBe(answers + 1);
  });
});
