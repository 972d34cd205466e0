import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../../drivers/host/run-process.ts';
import { hostsMtu } from '../network.ts';
import { type Child, supervise } from '../supervise.ts';
import { removeGuestGroup } from './guest-group.ts';
import { type Daemon, daemonsOf, nsenterArgv } from './host-daemons.ts';
import {
  cableName,
  groupName,
  type HostLayout,
  machineAddress,
  machineName,
  pidFile,
  prepareHost,
  removeConfig,
} from './host-folders.ts';

export { nsenterArgv } from './host-daemons.ts';
export { edgeName, hostName, pidFile } from './host-folders.ts';

export interface HostOptions extends HostLayout {
  /** Environment of the host's daemons. */
  env: Record<string, string>;
  /** Its worker, which is started last; null for a host without one. */
  worker: Pick<Daemon, 'argv' | 'env' | 'isReady'> | null;
  note: (text: string) => void;
}

export interface Host {
  readonly id: string;
  readonly address: string;
  /** Resolves when its daemons serve and its worker runs. */
  readonly ready: Promise<void>;
  /** PID 1 of the host, in the machine's PID namespace; null while the host is down. */
  pid(): number | null;
  /** `rpcbind`, `virtlogd`, `libvirtd`, `ganesha`, `worker`. */
  child(name: string): Child;
  /** Simulates a power failure: all processes of the host die at once. The host restarts by itself. */
  crash(): void;
  /** Disconnects it from everything, or from the hosts of the given addresses; returns a function that reconnects it. */
  partition(addresses?: readonly string[]): Promise<() => Promise<void>>;
  stop(): Promise<void>;
}

const deadlineMs = 10_000;

/** The current state of a host. */
interface State {
  children: Map<string, Child>;
  stopping: boolean;
  /** The host's end was requested, so the ends of its processes are not reported. */
  expectedDown: boolean;
}

/** A host or an edge of the local site: equivalent to a dedicated machine except for the kernel. */
export function startHost(order: HostOptions): Host {
  const id = machineName(order);
  const state: State = { children: new Map(), stopping: false, expectedDown: false };
  // The namespaces are a supervised child: when they die, the host restarts with everything in it.
  const body: Child = supervise(
    {
      name: id,
      argv: prepareHost(order),
      env: order.env,
      logFile: join(order.home.logs, `${id}.log`),
      isReady: (pid) => existsSync(`/proc/${pid}/root/run/berth/made`),
      viaLauncher: true,
      // Nothing in the namespaces needs an orderly end: everything that does was stopped before.
      stopSignal: 'SIGKILL',
      // At once: a restarting process must not enter the namespaces of another process that reuses this pid.
      onDeath: () => void stopChildren(state),
      onRestart: () => {
        void bringUp(order, body, state).catch((error: unknown) => {
          order.note(`${id} did not come up: ${String(error)}`);
          body.kill('SIGKILL');
        });
      },
    },
    order.note,
  );
  const ready = body.ready.then(() => bringUp(order, body, state));
  // Avoids an unhandled rejection; callers that await `ready` still receive it.
  ready.catch(() => undefined);
  return {
    id,
    address: machineAddress(order),
    ready,
    pid: () => body.pid(),
    child: (part) => find(state, id, part),
    crash() {
      state.expectedDown = true;
      body.kill('SIGKILL');
    },
    partition: (addresses) => partition(order, body, addresses),
    async stop() {
      state.stopping = true;
      // The worker stops first, so that it can still hand back its work.
      await state.children.get('worker')?.stop();
      state.expectedDown = true;
      await Promise.all([body.stop(), stopChildren(state)]);
      rmSync(pidFile(order.home, id), { force: true });
      removeConfig(order);
      if (order.guestProcessors != null) await removeGuestGroup(groupName(order));
    },
  };
}

/** Attaches the host to the network, then starts its daemons and its worker, each as soon as its dependencies serve. */
async function bringUp(order: HostOptions, body: Child, state: State): Promise<void> {
  const pid = body.pid();
  if (pid === null || state.stopping) return;
  state.expectedDown = false;
  const address = machineAddress(order);
  await attachNetwork(order, pid, address);
  writeFileSync(pidFile(order.home, machineName(order)), `${pid}\n`);
  const daemons = order.role === 'host' ? daemonsOf(address, order.env, order.guestProcessors != null) : [];
  const after = order.role === 'host' ? ['ganesha', 'libvirtd'] : [];
  const worker: Daemon[] = order.worker === null ? [] : [{ ...order.worker, name: 'worker', after, stopMs: 10_000 }];
  const serving = new Map<string, Promise<unknown>>();
  for (const daemon of [...daemons, ...worker]) {
    const before = Promise.all(daemon.after.map((part) => serving.get(part)));
    serving.set(
      daemon.name,
      before.then(() => startDaemon(order, daemon, pid, body, state)),
    );
  }
  await Promise.all(serving.values());
}

async function startDaemon(order: HostOptions, daemon: Daemon, pid: number, body: Child, state: State): Promise<void> {
  const id = machineName(order);
  const lives = (): boolean => body.pid() === pid && !state.expectedDown;
  if (state.stopping || !lives()) throw new Error(`${id} went down while it started`);
  const { name: part, argv, env, isReady, stopMs, watchdog } = daemon;
  const child = supervise(
    {
      name: `${id}/${part}`,
      argv: nsenterArgv(pid, argv),
      env,
      logFile: join(order.home.logs, id, `${part}.log`),
      isReady,
      viaLauncher: true,
      ...(stopMs === undefined ? {} : { stopMs }),
      ...(watchdog === undefined ? {} : { watchdog }),
      onRestart: () => {
        if (daemon.restartsWith !== undefined) state.children.get(daemon.restartsWith)?.kill('SIGTERM');
      },
    },
    (text) => {
      // Without its PID 1 no process of the host can live, so its failures are not reported.
      if (lives()) order.note(text);
    },
  );
  state.children.set(part, child);
  await child.ready;
}

async function stopChildren(state: State): Promise<void> {
  const old = [...state.children.values()];
  state.children.clear();
  await Promise.all(old.map((child) => child.stop()));
}

function find(state: State, id: string, part: string): Child {
  const found = state.children.get(part);
  if (found === undefined) throw new Error(`${id} has no process ${part} now; it has: ${[...state.children.keys()].join(', ')}`);
  return found;
}

/** Makes the link from the host to the site's bridge, its address and its route. Its firewall is already up: host-init.sh. */
async function attachNetwork(order: HostOptions, pid: number, address: string): Promise<void> {
  const cable = cableName(order);
  const { bridge, gateway } = order.network;
  const batch = (lines: string[]): { deadlineMs: number; input: string } => ({ deadlineMs, input: `${lines.join('\n')}\n` });
  // The link of a host that just died disappears with its namespace, but not at once.
  if (existsSync(`/sys/class/net/${cable}`)) await run(['ip', 'link', 'delete', cable], { deadlineMs });
  const made = `link add ${cable} mtu ${hostsMtu} type veth peer name eth0 mtu ${hostsMtu} netns ${pid}`;
  await run(['ip', '-batch', '-'], batch([made, `link set ${cable} master ${bridge} up`]));
  const own = [`address add ${address}/24 dev eth0`, 'link set eth0 up', `route add default via ${gateway}`];
  await run(nsenterArgv(pid, ['ip', '-batch', '-']), batch(own));
}

async function partition(order: HostOptions, body: Child, addresses?: readonly string[]): Promise<() => Promise<void>> {
  if (addresses === undefined) {
    const cable = cableName(order);
    await run(['ip', 'link', 'set', cable, 'down'], { deadlineMs });
    return async () => {
      await run(['ip', 'link', 'set', cable, 'up'], { deadlineMs });
    };
  }
  const pid = body.pid();
  if (pid === null) throw new Error(`${machineName(order)} is down`);
  const change = async (how: '-I' | '-D'): Promise<void> => {
    // A host that restarted meanwhile returns without these rules.
    if (body.pid() !== pid) return;
    const rules = addresses.flatMap((peer) => [`${how} INPUT -s ${peer} -j DROP`, `${how} OUTPUT -d ${peer} -j DROP`]);
    const input = `${['*filter', ...rules, 'COMMIT'].join('\n')}\n`;
    await run(nsenterArgv(pid, ['iptables-restore', '--wait', '10', '--noflush']), { deadlineMs, input });
  };
  await change('-I');
  return () => change('-D');
}
