import type { PortOrder } from '../../contracts/edge.ts';
import { ProcessError, run } from '../host/run-process.ts';

const deadlineMs = 15_000;

interface Flow {
  protocol: string;
  publicAddress: string;
  publicPort: string;
  address: string;
  port: string;
}

const keyOf = ({ protocol, publicAddress, publicPort, address, port }: Flow): string =>
  [protocol, publicAddress, publicPort, address, port].join(' ');

/** `udp 17 29 src=C dst=PUBLIC sport=1 dport=2 src=VM dst=EDGE sport=3 dport=4 …`, of conntrack(8). */
const line = /^(tcp|udp) .*?\bdst=(\S+) sport=\S+ dport=(\d+) .*?\bsrc=(\S+) dst=\S+ sport=(\d+) /;

/** Translated flows, each kind once. */
export function parseFlows(text: string): Flow[] {
  const flows = new Map<string, Flow>();
  for (const row of text.split('\n')) {
    const [, protocol, publicAddress, publicPort, address, port] = line.exec(row) ?? [];
    if (protocol === undefined || publicAddress === undefined || publicPort === undefined) continue;
    const flow: Flow = { protocol, publicAddress, publicPort, address: address ?? '', port: port ?? '' };
    flows.set(keyOf(flow), flow);
  }
  return [...flows.values()];
}

/**
 * Deletes translated flows that no port has any more. The rules refuse their packets; but a client that goes on sending
 * would keep the old translation, and never reach what is published there now.
 */
export async function deleteStaleFlows(ports: readonly PortOrder[]): Promise<void> {
  const kept = new Set(ports.map((order) => keyOf({ ...order, publicPort: String(order.publicPort), port: String(order.port) })));
  const text = await run(['conntrack', '-L', '--dst-nat'], { deadlineMs, limitBytes: 256 * 2 ** 20 });
  for (const flow of parseFlows(text)) {
    if (kept.has(keyOf(flow))) continue;
    const { protocol, publicAddress, publicPort, address, port } = flow;
    const original = ['-p', protocol, '--orig-dst', publicAddress, '--orig-port-dst', publicPort];
    await tolerateNone(run(['conntrack', '-D', ...original, '--reply-src', address, '--reply-port-src', port], { deadlineMs }));
  }
}

/** It exits with 1 where the flows have ended meanwhile. */
async function tolerateNone(deletion: Promise<string>): Promise<void> {
  try {
    await deletion;
  } catch (error) {
    if (!(error instanceof ProcessError && error.exitCode === 1 && / 0 flow entries have been deleted/.test(error.stderr)))
      throw error;
  }
}
