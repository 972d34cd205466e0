import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/** A URL's host: without the brackets of an IPv6 address; family 4 or 6, and 0 for a name. */
export function hostOf({ hostname }: URL): { host: string; family: number } {
  const host = hostname.replace(/^\[|\]$/g, '');
  return { host, family: isIP(host) };
}

/**
 * Whether an address is one of the public internet's. Everything with a special purpose is not: loopback, private,
 * link-local (clouds' metadata), carrier-grade NAT, multicast, reserved, documentation; nor an IPv6 address that
 * embeds such an IPv4 one.
 */
export function isPublicAddress(text: string): boolean {
  if (!ipaddr.isValid(text)) return false;
  // `process` turns IPv4-mapped addresses into the IPv4 ones that they are; what else embeds one isn't `unicast`, or not global.
  const address = ipaddr.process(text);
  if (address instanceof ipaddr.IPv6 && !address.match(globalUnicast)) return false;
  return address.range() === 'unicast';
}

/** The part of IPv6 that IANA has allocated so far. */
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3');
