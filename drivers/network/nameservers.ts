import { readText } from '../host/files.ts';

/** The host's own resolvers, without those on a loopback, which no guest reaches. */
export async function hostNameservers(path = '/etc/resolv.conf'): Promise<string[]> {
  const text = (await readText(path)) ?? '';
  return [...text.matchAll(/^nameserver\s+([0-9.]+)\s*$/gm)]
    .map((match) => match[1] ?? '')
    .filter((server) => !server.startsWith('127.'));
}
