import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../drivers/process.ts';
import type { Home } from './home.ts';
import { ganeshaConf, type HostConfig, hostPorts, hostRules, libvirtdConf, qemuConf, virtlogdConf } from './host-config.ts';
import { cableName, hostAddress, hostsMtu, type SiteNetwork } from './network.ts';
import { isListening } from './processes.ts';
import { type Child, type ChildSpec, supervise } from './supervise.ts';

export interface HostOrder {
  home: Home;
  network: SiteNetwork;
  /** 1 for the first host. */
  index: number;
  count: number;
  /** Where libvirt keeps what it found out about QEMU; shared, because finding out takes a second. */
  libvirtCache: string;
  /** For the host's daemons. */
  env: Record<string, string>;
  /** The host worker: started last; null for a host without one. */
  worker: { argv: readonly string[]; env: Record<string, string>; isReady: ChildSpec['isReady'] } | null;
  note: (text: string) => void;
}

export interface Host {
  readonly id: string;
  readonly address: string;
  /** Its daemons serve and its worker runs. */
  readonly ready: Promise<void>;
  /** PID 1 of the host, as seen from the machine; null while it is down. */
  pid(): number | null;
  /** `rpcbind`, `virtlogd`, `libvirtd`, `ganesha`, `worker`. */
  child(name: string): Child;
  /** As if its power failed: everything in it dies at once. It starts again by itself. */
  crash(): void;
  /** Cuts it off from everything, or from the hosts of the given addresses; returns what mends it. */
  cutOff(addresses?: readonly string[]): Promise<() => Promise<void>>;
  stop(): Promise<void>;
}

const deadlineMs = 10_000;
export const hostName = (index: number): string => `host${index}`;
export const pidFile = (home: Home, id: string): string => join(home.hosts, `${id}.pid`);

/** argv that runs a program in all of a host's namespaces. */
export const inside = (pid: number, argv: readonly string[]): [string, ...string[]] => [
  'nsenter',
  `--target=${pid}`,
  '--mount',
  '--net',
  '--uts',
  '--pid',
  '--wdns=/',
  ...argv,
];

/** A host of the local site: a machine of its own in everything but the kernel. */
export function startHost(order: HostOrder): Host {
  const id = hostName(order.index);
  const address = hostAddress(order.network, order.index);
  const name = (part: string): string => `${id}/${part}`;
  const children = new Map<string, Child>();
  let stopping = false;
  let down = false;
  const { argv, config } = prepareFolders(order, id, address);

  // The namespaces are a child like any other: when they die, the host starts again with everything in it.
  const body: Child = supervise(
    {
      name: id,
      argv,
      env: order.env,
      logFile: join(order.home.logs, `${id}.log`),
      isReady: (pid) => existsSync(`/proc/${pid}/root/run/berth/made`),
      launched: true,
      // Nothing in there needs more than its end: what matters was stopped before.
      stopSignal: 'SIGKILL',
      // At once: a process that is started again must not enter the namespaces of whoever gets this pid next.
      onDeath: () => void dropChildren(),
      onRestart: () => {
        void bringUp().catch((error: unknown) => {
          order.note(`${id} did not come up: ${String(error)}`);
          body.kill('SIGKILL');
        });
      },
    },
    order.note,
  );

  async function bringUp(): Promise<void> {
    const pid = body.pid();
    if (pid === null || stopping) return;
    down = false;
    await plugIn(order, pid, address);
    writeFileSync(pidFile(order.home, id), `${pid}\n`);
    const start = (
      spec: Omit<ChildSpec, 'name' | 'logFile' | 'launched' | 'argv'> & { part: string; argv: readonly string[] },
    ): Promise<void> => {
      const { part, ...rest } = spec;
      const child = supervise(
        {
          ...rest,
          name: name(part),
          argv: inside(pid, spec.argv),
          logFile: join(order.home.logs, id, `${part}.log`),
          launched: true,
        },
        (text) => {
          // Without its PID 1 nothing of the host can live: not their failure.
          if (body.pid() === pid && !down) order.note(text);
        },
      );
      children.set(part, child);
      return child.ready;
    };
    const env = order.env;
    const nfs = start({
      part: 'rpcbind',
      argv: ['rpcbind', '-f', '-w', '-h', address],
      env,
      isReady: (own) => existsSync(`/proc/${own}/root/run/rpcbind.sock`),
      // What was registered with the one that died is lost, and QEMU asks here for the NFS server's port.
      onRestart: () => children.get('ganesha')?.kill('SIGTERM'),
    }).then(() =>
      start({
        part: 'ganesha',
        argv: [
          'ganesha.nfsd',
          '-F',
          '-f',
          '/etc/ganesha/ganesha.conf',
          '-L',
          '/var/log/ganesha-server.log',
          '-N',
          'NIV_EVENT',
          '-p',
          '/run/ganesha/pid',
        ],
        env,
        isReady: async (own) => (await isListening(own, hostPorts.nfs)) && isListening(own, hostPorts.mountd),
      }),
    );
    const hypervisor = start({
      part: 'virtlogd',
      argv: ['virtlogd', '-f', '/etc/libvirt/virtlogd.conf'],
      env,
      isReady: (own) => existsSync(`/proc/${own}/root/run/libvirt/virtlogd-sock`),
    }).then(() =>
      start({
        part: 'libvirtd',
        argv: ['libvirtd', '--listen', '-f', '/etc/libvirt/libvirtd.conf'],
        env,
        isReady: async (own) => {
          if (!existsSync(`/proc/${own}/root/run/libvirt/libvirt-sock`)) return false;
          await run(inside(pid, ['virsh', '-c', 'qemu:///system', 'version']), { deadlineMs: 30_000 });
          return true;
        },
      }),
    );
    await Promise.all([nfs, hypervisor]);
    const worker = order.worker;
    if (worker !== null)
      await start({ part: 'worker', argv: worker.argv, env: worker.env, isReady: worker.isReady, stopMs: 10_000 });
  }

  async function dropChildren(): Promise<void> {
    const old = [...children.values()];
    children.clear();
    await Promise.all(old.map((child) => child.stop()));
  }

  const ready = body.ready.then(bringUp);
  ready.catch(() => undefined);

  return {
    id,
    address,
    ready,
    pid: () => body.pid(),
    child(part) {
      const found = children.get(part);
      if (found === undefined)
        throw new Error(`${id} has no process ${part} at the moment; it has: ${[...children.keys()].join(', ')}`);
      return found;
    },
    crash() {
      down = true;
      body.kill('SIGKILL');
    },
    cutOff: (addresses) => cutOff(order, body, addresses),
    async stop() {
      stopping = true;
      // The worker first: it gives its work back while it still can.
      await children.get('worker')?.stop();
      down = true;
      await Promise.all([body.stop(), dropChildren()]);
      rmSync(pidFile(order.home, id), { force: true });
      rmSync(config, { recursive: true, force: true });
    },
  };
}

/** Writes the host's configuration, and says how its first process is started. */
function prepareFolders(order: HostOrder, id: string, address: string): { argv: string[]; config: string } {
  const { home } = order;
  const all = Array.from({ length: order.count }, (_, i) => i + 1);
  const host: HostConfig = {
    address,
    peers: all.filter((other) => other !== order.index).map((other) => hostAddress(order.network, other)),
    uuid: hostUuid(`${home.path}/${id}`),
    confine: false,
  };
  const config = join(home.run, id);
  const disk = join(home.hosts, id);
  const logs = join(home.logs, id);
  rmSync(config, { recursive: true, force: true });
  for (const folder of [join(config, 'libvirt'), join(config, 'ganesha'), disk, logs, join(logs, 'libvirt'), order.libvirtCache])
    mkdirSync(folder, { recursive: true });
  writeFileSync(join(config, 'libvirt', 'libvirtd.conf'), libvirtdConf(host));
  writeFileSync(join(config, 'libvirt', 'qemu.conf'), qemuConf(host));
  writeFileSync(join(config, 'libvirt', 'virtlogd.conf'), virtlogdConf());
  writeFileSync(join(config, 'ganesha', 'ganesha.conf'), ganeshaConf(host));
  writeFileSync(join(config, 'firewall'), hostRules(host, 'eth0', []));
  const names = all.map((other) => `${hostAddress(order.network, other)} ${hostName(other)}`);
  writeFileSync(join(config, 'hosts'), `${['127.0.0.1 localhost', ...names].join('\n')}\n`);
  const init = join(import.meta.dirname, 'host-init.sh');
  return {
    // unshare gets PDEATHSIG from supervise(), and gives it to tini, PID 1: with that, all of the host dies.
    argv: [
      'unshare',
      '--net',
      '--mount',
      '--uts',
      '--pid',
      '--fork',
      '--kill-child=SIGKILL',
      '--mount-proc',
      'tini',
      '--',
      init,
      id,
      home.path,
      config,
      disk,
      logs,
      order.libvirtCache,
    ],
    config,
  };
}

/** A version 4 UUID made of a digest, so that a host keeps its own from run to run. */
function hostUuid(seed: string): string {
  const hex = createHash('sha256').update(seed).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** The cable from the host to the site's bridge, its address and its route. Its firewall is up already: host-init.sh. */
async function plugIn(order: HostOrder, pid: number, address: string): Promise<void> {
  const cable = cableName(order.home.tag, order.index);
  const { bridge, gateway } = order.network;
  const batch = (lines: string[]): { deadlineMs: number; input: string } => ({ deadlineMs, input: `${lines.join('\n')}\n` });
  // The cable of a host that just died goes with its namespace, but not at once.
  if (existsSync(`/sys/class/net/${cable}`)) await run(['ip', 'link', 'delete', cable], { deadlineMs });
  const made = `link add ${cable} mtu ${hostsMtu} type veth peer name eth0 mtu ${hostsMtu} netns ${pid}`;
  await run(['ip', '-batch', '-'], batch([made, `link set ${cable} master ${bridge} up`]));
  const own = [`address add ${address}/24 dev eth0`, 'link set eth0 up', `route add default via ${gateway}`];
  await run(inside(pid, ['ip', '-batch', '-']), batch(own));
}

async function cutOff(order: HostOrder, body: Child, addresses?: readonly string[]): Promise<() => Promise<void>> {
  if (addresses === undefined) {
    const cable = cableName(order.home.tag, order.index);
    await run(['ip', 'link', 'set', cable, 'down'], { deadlineMs });
    return async () => {
      await run(['ip', 'link', 'set', cable, 'up'], { deadlineMs });
    };
  }
  const rules = addresses.flatMap((peer) => [
    ['INPUT', '-s', peer],
    ['OUTPUT', '-d', peer],
  ]);
  const change = async (how: '-I' | '-D'): Promise<void> => {
    const pid = body.pid();
    if (pid === null) return;
    for (const [chain, ...match] of rules)
      await run(inside(pid, ['iptables', '--wait', '10', how, String(chain), ...match, '-j', 'DROP']), { deadlineMs });
  };
  await change('-I');
  return () => change('-D');
}
