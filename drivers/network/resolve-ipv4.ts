import { lookup } from 'node:dns/promises';

/** IPv4 addresses of a name. */
export type Resolve = (name: string) => Promise<string[]>;

/** By this machine's resolver; rejects where it has none. */
export const resolveIpv4: Resolve = async (name) => (await lookup(name, { all: true, family: 4 })).map(({ address }) => address);
