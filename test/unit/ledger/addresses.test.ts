import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { freeAddress, macOf, networkPrefix, nextNetwork } from '../../../ledger/placement/addresses.ts';

describe('networks', () => {
  it('are allocated one after the other, and again when they are free', () => {
    const supernet = '10.128.0.0/9';
    expect(nextNetwork(supernet, [])).toEqual({ cidr: '10.128.0.0/22', gateway: '10.128.0.1' });
    expect(nextNetwork(supernet, ['10.128.4.0/22', '10.128.0.0/22'])?.cidr).toBe('10.128.8.0/22');
    expect(nextNetwork(supernet, ['10.128.4.0/22'])?.cidr).toBe('10.128.0.0/22');
    expect(nextNetwork(supernet, ['10.128.0.0/22', '10.128.8.0/22'])?.cidr).toBe('10.128.4.0/22');
  });

  it('avoid those that were allocated from another supernet', () => {
    expect(nextNetwork('10.128.0.0/20', ['10.128.1.0/24', '10.128.4.128/25'])?.cidr).toBe('10.128.8.0/22');
    expect(nextNetwork('10.128.0.0/20', ['10.0.0.0/8'])).toBeNull();
    expect(nextNetwork('10.128.0.0/20', ['192.168.0.0/16', '9.0.0.0/8'])?.cidr).toBe('10.128.0.0/22');
  });

  it('end with the supernet', () => {
    const taken: string[] = [];
    for (let next = nextNetwork('10.200.0.0/20', taken); next !== null; next = nextNetwork('10.200.0.0/20', taken))
      taken.push(next.cidr);
    expect(taken).toEqual(['10.200.0.0/22', '10.200.4.0/22', '10.200.8.0/22', '10.200.12.0/22']);
    expect(nextNetwork('10.200.0.0/23', [])).toBeNull();
  });
});

describe('a network', () => {
  it('holds as many guests as its owner may have vCPUs', () => {
    expect([null, 0, 1021].map(networkPrefix)).toEqual([22, 22, 22]);
    expect([1022, 2045, 2046, 60_000].map(networkPrefix)).toEqual([21, 21, 20, 16]);
    // The largest there is.
    expect(networkPrefix(1_000_000)).toBe(16);
  });

  it('that is larger begins where networks of its size do', () => {
    expect(nextNetwork('10.128.0.0/9', ['10.128.0.0/22'], 20)).toEqual({ cidr: '10.128.16.0/20', gateway: '10.128.16.1' });
    expect(nextNetwork('10.128.0.0/9', ['10.128.16.0/20'], 20)?.cidr).toBe('10.128.0.0/20');
    expect(nextNetwork('10.128.4.0/22', [], 20)).toBeNull();
    expect(nextNetwork('10.128.4.0/22', [], 22)?.cidr).toBe('10.128.4.0/22');
  });
});

describe('addresses', () => {
  it('are all of the network but its own, the gateway and the broadcast address', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (seed) => {
        const taken = new Set<string>();
        for (let next = freeAddress('10.1.2.0/28', taken, seed); next !== null; next = freeAddress('10.1.2.0/28', taken, seed)) {
          expect(taken.has(next)).toBe(false);
          taken.add(next);
        }
        const expected = Array.from({ length: 13 }, (_, i) => `10.1.2.${i + 2}`);
        expect([...taken].sort()).toEqual(expected.sort());
      }),
    );
  });

  it('start elsewhere with another seed', () => {
    const first = (seed: number) => freeAddress('10.128.0.0/22', new Set(), seed);
    expect(first(0)).toBe('10.128.0.2');
    expect(first(1020)).toBe('10.128.3.254');
    expect(first(1021)).toBe('10.128.0.2');
  });

  it('have a MAC each, locally administered and of one station', () => {
    expect(macOf('10.128.4.200')).toBe('52:54:0a:80:04:c8');
    const firstByte = Number.parseInt(macOf('0.0.0.0').slice(0, 2), 16);
    expect(firstByte & 0b11).toBe(0b10);
  });
});
