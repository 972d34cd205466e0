import { readText } from '../host/files.ts';

/** Where systemd-resolved, which listens on 127.0.0.53, writes the resolvers that it asks itself (systemd-resolved(8)). */
const resolvedUpstream = '/run/systemd/resolve/resolv.conf';

/**
 * The host's own resolvers, without those on a loopback, which no guest reaches. Where there are no others, those that
 * systemd-resolved asks. [] when a guest can have none.
 */
export async function hostNameservers(path = '/etc/resolv.conf', upstream = resolvedUpstream): Promise<string[]> {
  const own = await readNameservers(path);
  return own.length > 0 ? own : readNameservers(upstream);
}

/** IPv4 ones: guests have no IPv6. At most three, as resolv.conf(5) has it. */
async function readNameservers(path: string): Promise<string[]> {
  const text = (await readText(path)) ?? '';
  return [...text.matchAll(/^nameserver[ \t]+([0-9.]+)[ \t]*(?:[#;].*)?$/gm)]
    .map((match) => match[1] ?? '')
    .filter((server) => !server.startsWith('127.') && server !== '0.0.0.0')
    .slice(0, 3);
}
