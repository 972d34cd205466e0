import ipaddr from 'ipaddr.js';
import { run } from '../../drivers/host/run-process.ts';
import { type Resolve, resolveIpv4 } from '../../drivers/network/resolve-ipv4.ts';
import { deniedRanges } from '../../model/network/reach-exception.ts';

const defaultPorts: Record<string, number> = { 'http:': 80, 'https:': 443 };

/**
 * What image builds of a local site need of the addresses that guests are denied: the guest image has this machine's package
 * archives (infra/guest/build), which a private mirror may serve. As BERTH_GUEST_REACHES has them.
 */
export async function archiveExceptions(urls: readonly string[], resolve: Resolve = resolveIfKnown): Promise<string[]> {
  const ranges = deniedRanges.map((range) => ipaddr.IPv4.parseCIDR(range));
  const found = urls.map(async (text) => {
    const url = URL.parse(text);
    const port = url === null ? undefined : Number(url.port) || defaultPorts[url.protocol];
    // An archive on a disk, or on a medium.
    if (url === null || port === undefined) return [];
    const denied = (await resolve(url.hostname)).filter((address) =>
      ranges.some((range) => ipaddr.IPv4.parse(address).match(range)),
    );
    return denied.map((address) => `${address}:${port}/tcp`);
  });
  return [...new Set((await Promise.all(found)).flat())];
}

/** A name that this machine does not resolve is none that its guests reach. */
const resolveIfKnown: Resolve = (name) =>
  resolveIpv4(name).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOTFOUND' || error.code === 'EAI_AGAIN') return [];
    throw error;
  });

/** URLs of the Debian archives from which this machine installs packages. */
export async function debianArchives(): Promise<string[]> {
  const format = '$(ORIGIN)|$(COMPONENT)|$(REPO_URI)';
  const listed = await run(['apt-get', 'indextargets', '--format', format, 'Created-By: Packages'], { deadlineMs: 30_000 });
  const rows = listed.split('\n').map((line) => line.split('|'));
  return [...new Set(rows.filter(([origin, component]) => origin === 'Debian' && component === 'main').map(([, , url]) => url!))];
}
