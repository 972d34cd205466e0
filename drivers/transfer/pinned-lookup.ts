import type { LookupFunction } from 'node:net';
import { hostOf, isPublicAddress } from '../../model/network/public-address.ts';

/** Every address of a name. Tests replace it. */
export type ResolveHost = (hostname: string) => Promise<{ address: string; family: number }[]>;

/** Where a connection to a URL's host leads. */
type Pinned =
  | { lookup: LookupFunction }
  /** It has an address that is not public. */
  | { refused: string }
  | { noAddress: true };

/**
 * Resolves a URL's host once, checks all its addresses, and returns a lookup that returns the first of them alone: a second
 * resolution can't return another one. Throws what the resolution throws.
 */
export async function pinLookup(url: URL, allowInternal: boolean, resolve: ResolveHost): Promise<Pinned> {
  const { host, family } = hostOf(url);
  const addresses = family !== 0 ? [{ address: host, family }] : await resolve(host);
  const [first] = addresses;
  if (first === undefined) return { noAddress: true };
  const internal = addresses.find(({ address }) => !isPublicAddress(address));
  if (internal !== undefined && !allowInternal) return { refused: internal.address };
  return {
    lookup: (_hostname, options, callback) => {
      if (options.all === true) callback(null, [first]);
      else callback(null, first.address, first.family);
    },
  };
}
