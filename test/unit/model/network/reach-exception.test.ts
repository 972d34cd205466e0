import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readConfig } from '../../../../model/config.ts';
import { parseCidr, parseReachException } from '../../../../model/network/reach-exception.ts';

describe('an exception from what guests are denied', () => {
  it.each([
    ['10.50.0.0/16', { cidr: '10.50.0.0/16', ports: null }],
    ['192.168.7.4', { cidr: '192.168.7.4/32', ports: null }],
    ['192.168.7.4:443', { cidr: '192.168.7.4/32', ports: { first: 443, last: 443, protocols: ['tcp', 'udp'] } }],
    ['192.168.7.4:443/tcp', { cidr: '192.168.7.4/32', ports: { first: 443, last: 443, protocols: ['tcp'] } }],
    ['172.16.3.0/24:8000-8080/udp', { cidr: '172.16.3.0/24', ports: { first: 8000, last: 8080, protocols: ['udp'] } }],
    ['10.0.0.1:1-65535', { cidr: '10.0.0.1/32', ports: { first: 1, last: 65_535, protocols: ['tcp', 'udp'] } }],
  ])('is read from %s', (text, read) => {
    expect(parseReachException(text)).toEqual(read);
  });

  it.each<readonly [text: string, problem: string]>([
    ['10.50.0.1/16', 'expected 10.50.0.0/16'],
    ...['', '10.50/16', '10.50.0.0/33', '10.50.0.0/08', '010.0.0.1', '0x0a.0.0.1', '10.0.0.256', '167772161', 'mirror.test'].map(
      (text) => [text, 'expected an IPv4 address'] as const,
    ),
    ...['fd00::/8', '::1', '10.0.0.1:80:90'].map((text) => [text, 'one colon'] as const),
    ...['', '0', '080', '65536', '90-80', '80-', '-80', '80/sctp', '80/TCP', '80 ', 'http', '1-2-3'].map(
      (ports) => [`10.0.0.1:${ports}`, 'expected a port'] as const,
    ),
    ['10.0.0.1/tcp', 'expected an IPv4 address'],
    ['10.0.0.0/16 -j ACCEPT', 'expected an IPv4 address'],
  ])('is refused as %j', (text, problem) => {
    expect(() => parseReachException(text)).toThrow(problem);
  });

  it('has no form but the one that is written', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9./:xtcpud -]{0,30}$/)), (text) => {
        let read: ReturnType<typeof parseReachException>;
        try {
          read = parseReachException(text);
        } catch {
          return;
        }
        const { cidr, ports } = read;
        const addresses = text.split(':')[0]!.includes('/') ? cidr : cidr.replace(/\/32$/, '');
        const range = ports === null ? '' : /-/.test(text) ? `:${ports.first}-${ports.last}` : `:${ports.first}`;
        expect(text).toBe(`${addresses}${range}${ports?.protocols.length === 1 ? `/${ports.protocols[0]}` : ''}`);
      }),
    );
  });
});

it('a CIDR has no bits behind its prefix', () => {
  expect(parseCidr('203.0.113.7')).toBe('203.0.113.7/32');
  expect(() => parseCidr('203.0.113.7/24')).toThrow('203.0.113.0/24');
});

describe('the configuration of a host', () => {
  const host = {
    BERTH_HOST_ID: 'host1',
    BERTH_HOST_ADDRESS: '10.77.0.1',
    BERTH_HOSTS_CIDR: '10.77.0.0/24',
    BERTH_REPOSITORY_URL: 'http://10.77.0.254:8080',
  };
  const read = (more: Record<string, string>) => readConfig(['host'], { ...host, ...more }).host;

  it('opens nothing unless it says so', () => {
    expect(read({})).toMatchObject({ BERTH_GUEST_REACHES: [], BERTH_SITE_CIDRS: [] });
    expect(read({ BERTH_GUEST_REACHES: '', BERTH_SITE_CIDRS: ' ' })).toMatchObject({
      BERTH_GUEST_REACHES: [],
      BERTH_SITE_CIDRS: [],
    });
  });

  it('has lists of both kinds', () => {
    const { BERTH_GUEST_REACHES, BERTH_SITE_CIDRS } = read({
      BERTH_GUEST_REACHES: '10.50.0.0/16, 192.168.7.4:443/tcp',
      BERTH_SITE_CIDRS: '203.0.113.7,198.51.100.0/28',
    });
    expect(BERTH_GUEST_REACHES.map(({ cidr }) => cidr)).toEqual(['10.50.0.0/16', '192.168.7.4/32']);
    expect(BERTH_SITE_CIDRS).toEqual(['203.0.113.7/32', '198.51.100.0/28']);
  });

  it('is refused with the reason', () => {
    expect(() => read({ BERTH_GUEST_REACHES: '10.50.0.0/16,10.50.0.1/16' })).toThrow(
      'BERTH_GUEST_REACHES.1: found "10.50.0.0/16,10.50.0.1/16"; 10.50.0.1/16: has bits behind its prefix; expected 10.50.0.0/16',
    );
    expect(() => read({ BERTH_SITE_CIDRS: '10.50.0.0/16:80' })).toThrow('BERTH_SITE_CIDRS');
    expect(() => read({ BERTH_GUEST_REACHES: Array(257).fill('10.50.0.0/16').join(',') })).toThrow('BERTH_GUEST_REACHES');
  });
});
