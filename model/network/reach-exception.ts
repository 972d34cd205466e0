import ipaddr from 'ipaddr.js';
import { type PortProtocol, type PortRange, portProtocols, portRange } from './port-range.ts';

/**
 * What guests do not reach unless an exception says so: private networks (RFC 1918), carriers' shared addresses (RFC 6598),
 * and link-local ones (RFC 3927), where clouds keep metadata.
 */
export const deniedRanges: readonly string[] = [
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '100.64.0.0/10',
  '169.254.0.0/16',
];

/** Addresses of the denied ranges that guests reach all the same. */
export interface ReachException {
  /** Always with its prefix length: `192.168.7.4/32`. */
  cidr: string;
  /** null: every port, and every protocol. */
  ports: (PortRange & { protocols: readonly PortProtocol[] }) | null;
}

/**
 * `ADDRESS[/PREFIX][:PORT[-PORT][/tcp|/udp]]`, e.g. `10.50.0.0/16`, `192.168.7.4:443/tcp`, `172.16.3.0/24:8000-8080`. Without a
 * protocol, ports are those of both. Throws an Error that says what is wrong.
 */
export function parseReachException(text: string): ReachException {
  const [addresses = '', ports, ...more] = text.split(':');
  if (more.length > 0) throw new Error(`${text}: expected one colon at most; guests have IPv4 alone`);
  return { cidr: parseCidr(addresses), ports: ports === undefined ? null : parsePorts(ports) };
}

/** An address, or a CIDR without bits behind its prefix. Throws an Error that says what is wrong. */
export function parseCidr(text: string): string {
  const cidr = text.includes('/') ? text : `${text}/32`;
  // The pattern refuses what ipaddr.js and inet_aton take as well: `10.1/16`, `0x0a.0.0.1`, `010.0.0.1`, `10.0.0.0/08`.
  if (!/^\d+(\.\d+){3}\/(0|[1-9]\d?)$/.test(cidr) || !ipaddr.IPv4.isValidCIDRFourPartDecimal(cidr))
    throw new Error(`${text}: expected an IPv4 address, or a CIDR such as 192.168.7.0/24`);
  const prefix = cidr.slice(cidr.indexOf('/'));
  const network = `${ipaddr.IPv4.networkAddressFromCIDR(cidr)}${prefix}`;
  if (network !== cidr) throw new Error(`${text}: has bits behind its prefix; expected ${network}`);
  return cidr;
}

function parsePorts(text: string): NonNullable<ReachException['ports']> {
  const [, from = '', to = from, protocol] = /^([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?(?:\/(tcp|udp))?$/.exec(text) ?? [];
  const range = portRange(from, to);
  if (range === null) throw new Error(`:${text}: expected a port or a range of ports from 1 to 65535, and perhaps /tcp or /udp`);
  return { ...range, protocols: protocol === undefined ? portProtocols : [protocol as PortProtocol] };
}
