import ipaddr from 'ipaddr.js';

/** A CIDR as numbers: its first and last address. */
interface Range {
  first: number;
  last: number;
}

/** Prefix lengths of owners' networks: 1,021 guests in addition to the gateway, and 65,533. */
const prefixes = { longest: 22, shortest: 16 };

/** Of the network of an owner whose quota allows that many vCPUs, of which each VM has one at least; null: the site's quota. */
export function networkPrefix(maxVcpus: number | null): number {
  let prefix = prefixes.longest;
  while (prefix > prefixes.shortest && 2 ** (32 - prefix) - 3 < (maxVcpus ?? 0)) prefix -= 1;
  return prefix;
}

export const prefixOf = (cidr: string): number => ipaddr.IPv4.parseCIDR(cidr)[1];

function toNumber(address: string): number {
  return ipaddr.IPv4.parse(address)
    .toByteArray()
    .reduce((sum, byte) => sum * 256 + byte, 0);
}

function bytesOf(address: number): number[] {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256);
}

function toText(address: number): string {
  return bytesOf(address).join('.');
}

function rangeOf(cidr: string): Range {
  const [address, prefix] = ipaddr.IPv4.parseCIDR(cidr);
  const size = 2 ** (32 - prefix);
  const first = Math.floor(toNumber(address.toString()) / size) * size;
  return { first, last: first + size - 1 };
}

/**
 * The first network of the site's guests that overlaps none of the allocated ones; null when the supernet is full.
 * Its gateway is the network's first address.
 */
export function nextNetwork(
  supernet: string,
  taken: readonly string[],
  prefix: number = prefixes.longest,
): { cidr: string; gateway: string } | null {
  const site = rangeOf(supernet);
  const size = 2 ** (32 - prefix);
  let first = Math.ceil(site.first / size) * size;
  for (const used of taken.map(rangeOf).sort((a, b) => a.first - b.first)) {
    if (used.last < first) continue;
    if (used.first > first + size - 1) break;
    first = Math.ceil((used.last + 1) / size) * size;
  }
  if (first + size - 1 > site.last) return null;
  return { cidr: `${toText(first)}/${prefix}`, gateway: toText(first + 1) };
}

/**
 * A free address for a guest; null when there is none. The search starts at a point that `seed` chooses, so that an address
 * that was just released is seldom allocated next, while the hosts' bridges still have its old location.
 */
export function freeAddress(cidr: string, taken: ReadonlySet<string>, seed: number): string | null {
  const { first, last } = rangeOf(cidr);
  // Neither the network, the gateway nor the broadcast address.
  const from = first + 2;
  const count = last - from;
  for (let tried = 0; tried < count; tried += 1) {
    const address = toText(from + ((seed + tried) % count));
    if (!taken.has(address)) return address;
  }
  return null;
}

/** The last free address of a network, for what is no guest; null when there is none. */
export function lastFreeAddress(cidr: string, taken: ReadonlySet<string>): string | null {
  const { first, last } = rangeOf(cidr);
  for (let number = last - 1; number > first + 1; number -= 1) if (!taken.has(toText(number))) return toText(number);
  return null;
}

/** A locally administered MAC with the address in its last four bytes: as unique as the address, and readable in a packet trace. */
export function macOf(address: string): string {
  const bytes = [0x52, 0x54, ...bytesOf(toNumber(address))];
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
