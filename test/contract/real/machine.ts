import { createSocket } from 'node:dgram';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import type { EdgeOrders } from '../../../contracts/edge.ts';
import { type EdgeKernel, openEdge } from '../../../drivers/network/edge.ts';
import { type GuestFirewall, openGuestFirewall } from '../../../drivers/network/guest-firewall.ts';
import { openNetwork } from '../../../drivers/network/host-network.ts';
import { openPublicAddresses, type PublicAddressTable } from '../../../drivers/network/public-addresses.ts';
import { spreadReceived } from '../../../drivers/network/receive-queues.ts';
import { sysctl } from '../../../drivers/network/sysctl.ts';
import { parseReachException } from '../../../model/network/reach-exception.ts';
import type { NetworkRef } from '../../../model/vm.ts';

/**
 * The one process of a machine that is a network namespace: a host, a guest, or what is outside. It does what the test
 * writes to standard input, as lines of JSON.
 */

export interface Probe {
  protocol: 'tcp' | 'udp';
  address: string;
  port: number;
  /** The sender's address; absent: as the kernel chooses. */
  from?: string;
}

/** A host's configuration, as far as it is about guests' packets. */
export interface Reach {
  hostsCidr: string;
  guestSupernet: string;
  nameservers: string[];
  siteHosts: string[];
  siteCidrs: string[];
  exceptions: string[];
}

let firewall: GuestFirewall | null = null;
let edge: EdgeKernel | null = null;
let held: PublicAddressTable | null = null;
/** What the host's resolver says. */
let names: Record<string, string[]> = {};
const kept: Socket[] = [];

async function resolve(name: string): Promise<string[]> {
  const found = names[name];
  if (found === undefined) throw new Error(`no address of ${name}`);
  return found;
}

/** Resolves once there is any answer from there; never where there is none. */
function answerOf({ protocol, address, port, from }: Probe, signal: AbortSignal): Promise<void> {
  return new Promise((answered) => {
    if (protocol === 'tcp') {
      const socket = connect({ host: address, port, ...(from === undefined ? {} : { localAddress: from }) });
      socket.once('connect', () => answered());
      // A refusal comes from there; that nothing comes, or that there is no way, does not.
      socket.on('error', (error: NodeJS.ErrnoException) => error.code === 'ECONNREFUSED' && answered());
      signal.addEventListener('abort', () => socket.destroy());
      return;
    }
    const socket = createSocket('udp4');
    socket.once('message', () => answered());
    socket.on('error', (error: NodeJS.ErrnoException) => error.code === 'ECONNREFUSED' && answered());
    socket.bind({ address: from ?? '0.0.0.0' }, () => socket.connect(port, address, () => socket.send('probe')));
    signal.addEventListener('abort', () => socket.close());
  });
}

const methods = {
  /** A host worker starts with this configuration. */
  async startWorker(reach: Reach, resolver: Record<string, string[]> = {}): Promise<void> {
    names = resolver;
    firewall = openGuestFirewall({ ...reach, exceptions: reach.exceptions.map(parseReachException) }, resolve);
    await firewall.ensure();
  },
  async refresh(resolver: Record<string, string[]> = {}): Promise<void> {
    names = resolver;
    await firewall!.refresh();
  },
  async ensureNetwork(address: string, { peers, ...network }: NetworkRef & { peers: string[] | null }): Promise<string> {
    return openNetwork({ address, firewall: firewall!, peers: () => peers }).ensure(network);
  },
  /** A host worker that has just started learns of the site's machines; its networks are in the kernel. */
  async updatePeers(address: string, peers: string[]): Promise<void> {
    await openNetwork({ address, firewall: firewall!, peers: () => peers }).updatePeers();
  },
  /** An edge worker starts, with what its kernel has. */
  async startEdge(
    address: string,
    device: string,
    openPorts: number[],
    connections = { perClient: 4096, perOwner: 32_768 },
  ): Promise<void> {
    await spreadReceived(device);
    edge = openEdge({ address, openPorts, connections });
    held = openPublicAddresses(device, (error) => console.error(error));
  },
  async applyOrders(orders: EdgeOrders): Promise<void> {
    await edge!.apply(orders);
  },
  async holdAddresses(addresses: string[]): Promise<void> {
    await held!.hold(addresses);
  },
  async releaseAddresses(addresses: string[]): Promise<void> {
    await held!.release(addresses);
  },
  async areTaken(addresses: string[]): Promise<boolean> {
    return held!.areTaken(addresses);
  },
  async set(name: string, value: string): Promise<void> {
    await sysctl(name, value);
  },
  /** Returns what it receives, on this port of all its addresses. */
  async echo(port: number): Promise<void> {
    const server = createServer((socket) => socket.on('error', () => undefined).pipe(socket));
    const datagrams = createSocket('udp4');
    datagrams.on('message', (message, from) => datagrams.send(message, from.port, from.address));
    await Promise.all([
      new Promise<void>((listening) => server.listen(port, '0.0.0.0', listening)),
      new Promise<void>((listening) => datagrams.bind(port, listening)),
    ]);
  },
  /**
   * @param expected how many of them answer; it waits for these, and then for a moment in which another would have
   * @returns the indices of those that answered
   */
  async probe(probes: Probe[], expected: number): Promise<number[]> {
    const answered = new Set<number>();
    const end = new AbortController();
    for (const [index, probe] of probes.entries()) void answerOf(probe, end.signal).then(() => answered.add(index));
    for (const untilMs = Date.now() + 20_000; answered.size < expected && Date.now() < untilMs; ) await delay(5);
    await delay(300);
    end.abort();
    return [...answered].sort((a, b) => a - b);
  },
  /** Takes whatever is sent there, and answers each connection with one byte at its end. */
  async sink(port: number): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) =>
      socket
        .on('error', () => undefined)
        .on('end', () => socket.end('x'))
        .resume(),
    );
    await new Promise<void>((listening) => server.listen(port, '0.0.0.0', listening));
  },
  /** @returns the seconds from the first byte that is sent there to the answer of the sink */
  async pour(address: string, port: number, bytes: number): Promise<number> {
    const socket = connect({ host: address, port });
    await new Promise((connected, failed) => socket.once('connect', connected).once('error', failed));
    const answered = new Promise((resolve, reject) => socket.once('data', resolve).once('error', reject));
    const chunk = Buffer.alloc(2 ** 20, 'x');
    const since = performance.now();
    for (let sent = 0; sent < bytes; sent += chunk.length)
      if (!socket.write(chunk)) await new Promise((drained) => socket.once('drain', drained));
    socket.end();
    await answered;
    return (performance.now() - since) / 1000;
  },
  /** Opens a connection that lasts. @returns its number */
  async open(address: string, port: number): Promise<number> {
    const socket = connect({ host: address, port, noDelay: true });
    await new Promise((connected, failed) => socket.once('connect', connected).once('error', failed));
    socket.on('error', () => undefined);
    return kept.push(socket) - 1;
  },
  /** Whether what is written to the connection comes back within the time. */
  async isAlive(connection: number, deadlineMs: number): Promise<boolean> {
    const socket = kept[connection]!;
    const back = new Promise<boolean>((heard) => socket.once('data', () => heard(true)));
    socket.write('x');
    return Promise.race([back, delay(deadlineMs, false)]);
  },
  /** Sends numbered datagrams to an address, one a millisecond. @returns how many were sent, and how many came back */
  async send(address: string, port: number, forMs: number): Promise<{ sent: number; back: number }> {
    const socket = createSocket('udp4');
    let [sent, back] = [0, 0];
    socket.on('message', () => {
      back += 1;
    });
    await new Promise<void>((connected) => socket.connect(port, address, connected));
    for (const untilMs = Date.now() + forMs; Date.now() < untilMs; await delay(1)) {
      socket.send(String(sent));
      sent += 1;
    }
    await delay(500);
    socket.close();
    return { sent, back };
  },
};

export type Methods = typeof methods;

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { id, method, args } = JSON.parse(line) as { id: number; method: keyof Methods; args: never[] };
    const answer = (message: object): void => void process.stdout.write(`${JSON.stringify({ id, ...message })}\n`);
    (methods[method] as (...args: never[]) => Promise<unknown>)(...args).then(
      (result) => answer({ result }),
      (error: unknown) => answer({ error: String(error) }),
    );
  })
  .on('close', () => process.exit(0));
process.stdout.write(`${JSON.stringify({ id: 0 })}\n`);
