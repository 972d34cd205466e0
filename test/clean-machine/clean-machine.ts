import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../drivers/host/run-process.ts';
import { applyMachineRules, hostAddress, hostsMtu, machineRules, vethName } from '../../infra/site/network.ts';
import { childrenOf, signal } from '../../infra/site/processes.ts';
import { acquireSiteBase, type SiteBase } from '../../infra/site/site-base.ts';
import { until } from '../../infra/site/until.ts';
import { baseRoot, cacheFolder } from './base-root.ts';

/** The folder of the repository's copy in the clean machine. */
const checkout = '/srv/berth';
const deadlineMs = 30_000;
/** The time after SIGINT in which a command has to stop what it has started. */
const stopMs = 90_000;
const keptChars = 200_000;

/** Each command's output, of the last run. */
const logFolder = (): string => join(cacheFolder(), 'log', 'clean-machine');

/** The outcome of a command. */
export interface Ended {
  /** null: it reached its deadline. */
  exitCode: number | null;
  /** Standard output and standard error, in their order; the last part of it. */
  output: string;
  /** A file with all of it. */
  log: string;
}

/** A command that continues to run. */
export interface Service {
  /** Its output until it was ready. */
  output: string;
  /** Sends SIGINT, as from a terminal, and returns the outcome. */
  stop(): Promise<Ended>;
  kill(): Promise<Ended>;
}

/**
 * A machine with nothing but a minimal Debian and its npm, as far as a program can see: a root of its own, and mount,
 * PID, UTS, IPC and network namespaces. All of its mounts are in its namespaces and all of its processes beneath its
 * PID 1, which dies with this process: nothing of it can outlive the test. Its network is one of Berth's own, whose home
 * a test run that was cut short finds and removes (infra/testing/sweep.ts).
 */
export class CleanMachine {
  readonly #base: SiteBase;
  readonly #root: string;
  readonly #remover: ChildProcess;
  /** PID 1 of its namespaces, as this machine sees it. */
  readonly #pid: number;
  #commands = 0;

  private constructor(base: SiteBase, root: string, remover: ChildProcess, pid: number) {
    this.#base = base;
    this.#root = root;
    this.#remover = remover;
    this.#pid = pid;
  }

  /** Creates one from the base root, with a copy of the repository as it is now, uncommitted changes included. */
  static async start(repository: string, signal: AbortSignal): Promise<CleanMachine> {
    const pristine = await baseRoot(signal);
    await rm(logFolder(), { recursive: true, force: true });
    await mkdir(logFolder(), { recursive: true });
    const home = await mkdtemp(join(tmpdir(), 'berth-clean-'));
    const base = await acquireSiteBase(home, () => undefined);
    const root = join(base.home.path, 'root');
    const removing = remover(base);
    try {
      // Copied, not overlaid: NFS-Ganesha exports folders by file handles, which an overlay does not give.
      await mkdir(root);
      await run(['cp', '-a', '--reflink=auto', `${pristine}/.`, root], { deadlineMs: 5 * 60_000, signal });
      await equip(root, repository);
      const pid = await firstProcess(enterNamespaces(base, root));
      await attachNetwork(base, pid);
      return new CleanMachine(base, root, removing, pid);
    } catch (error) {
      await remove(removing, base);
      throw error;
    }
  }

  /** Runs a script with bash in the repository's copy, to its end or its deadline. */
  async run(script: string, options: { deadlineMs: number; signal: AbortSignal }): Promise<Ended> {
    const command = await this.#start(script);
    const timer = setTimeout(() => command.kill(), options.deadlineMs);
    const onAbort = (): void => command.kill();
    options.signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await command.ended;
    } finally {
      clearTimeout(timer);
      options.signal.removeEventListener('abort', onAbort);
    }
  }

  /** Starts a script that runs until it is stopped, and waits until it has printed `ready`. */
  async serve(script: string, ready: RegExp, options: { deadlineMs: number; signal: AbortSignal }): Promise<Service> {
    const command = await this.#start(script);
    let over: Ended | null = null;
    void command.ended.then((ended) => {
      over = ended;
    });
    const stop = async (): Promise<Ended> => {
      await command.interrupt();
      const timer = setTimeout(() => command.kill(), stopMs);
      return command.ended.finally(() => clearTimeout(timer));
    };
    try {
      await until(`${script} to print ${ready}`, options.deadlineMs, () => {
        options.signal.throwIfAborted();
        return over !== null || ready.test(command.output());
      });
      if (!ready.test(command.output())) throw new Error(`${script} ended before it printed ${ready}`);
    } catch (error) {
      throw new Error(`${String(error)}; it printed: ${(await stop()).output.slice(-3000)}`);
    }
    const kill = (): Promise<Ended> => {
      command.kill();
      return command.ended;
    };
    return { output: command.output(), stop, kill };
  }

  /** Ends all of its processes, and with them its mounts; then its network and its files. */
  async close(): Promise<void> {
    await remove(this.#remover, this.#base);
  }

  async #start(script: string) {
    this.#commands += 1;
    const log = join(logFolder(), `${String(this.#commands).padStart(2, '0')}.log`);
    const file = createWriteStream(log);
    file.write(`$ ${script}\n`);
    const namespaces = ['--mount', '--net', '--uts', '--ipc', '--pid'];
    const environment = await guestEnvironment(this.#root);
    const [program, ...args] = [
      ...['setpriv', '--pdeathsig', 'KILL', '--', 'nsenter', `--target=${this.#pid}`, ...namespaces, '--'],
      ...['/usr/bin/env', '-i', ...environment, '/bin/bash', '-c', `cd ${checkout}\n${script}`],
    ] as [string, ...string[]];
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    let output = '';
    const keep = (chunk: Buffer): void => {
      file.write(chunk);
      output = (output + chunk.toString()).slice(-keptChars);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    const ended = new Promise<Ended>((resolve, reject) => {
      child.once('error', reject);
      const finish = (code: number | null, name: NodeJS.Signals | null): void => {
        file.end(() => resolve({ exitCode: name === 'SIGINT' ? 130 : code, output, log }));
      };
      child.once('close', finish);
      // A process that it left running may keep its output open; the end of the machine ends that.
      child.once('exit', (code, name) => setTimeout(() => finish(code, name), 5000).unref());
    });
    return {
      ended,
      output: () => output,
      kill: () => killGroup(child, 'SIGKILL'),
      interrupt: () => interruptGroup(child.pid!),
    };
  }
}

function killGroup(child: ChildProcess, name: NodeJS.Signals): void {
  try {
    process.kill(-child.pid!, name);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

/** SIGINT to all of a group except nsenter at its head, which would end at once and not wait for what it has started. */
async function interruptGroup(group: number): Promise<void> {
  for (const pid of (await readdir('/proc')).filter((name) => /^[0-9]+$/.test(name)).map(Number)) {
    if (pid === group) continue;
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // After the name in parentheses: state, parent, group.
    if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]) === group) signal(pid, 'SIGINT');
  }
}

/** The network, the archives and the certificates of this machine, the repository, and Temporal, which takes minutes to build. */
async function equip(root: string, repository: string): Promise<void> {
  await cp('/etc/apt', join(root, 'etc/apt'), {
    recursive: true,
    force: true,
    // Setup's own: what it adds it has to add there as well.
    filter: (path) => !/\/berth[^/]*\.sources$/.test(path),
  });
  // A loss of power on this machine costs nothing: dpkg need not wait for the disk after each file.
  await writeFile(join(root, 'etc/dpkg/dpkg.cfg.d/unsafe-io'), 'force-unsafe-io\n');
  await rm(join(root, 'etc/apt/sources.list'), { force: true });
  if (existsSync('/etc/apt/sources.list')) await cp('/etc/apt/sources.list', join(root, 'etc/apt/sources.list'));
  const resolved = '/run/systemd/resolve/resolv.conf';
  await writeFile(join(root, 'etc/resolv.conf'), await readFile(existsSync(resolved) ? resolved : '/etc/resolv.conf'));
  await writeFile(join(root, 'etc/hosts'), '127.0.0.1 localhost clean-machine\n');
  await copyCertificates(root);
  await copyRepository(root, repository);
  const temporal = join(cacheFolder(), 'temporal');
  const cache = join(root, 'root/.cache/berth/temporal');
  if (existsSync(temporal)) await cp(temporal, cache, { recursive: true, filter: (path) => !path.includes('.partial') });
}

/** Certificates that this machine's administrator has added: without them a proxy that reads TLS is not trusted. */
const localCertificates = '/usr/local/share/ca-certificates';
const certificateBundle = '/usr/local/share/machine-ca.crt';

async function copyCertificates(root: string): Promise<void> {
  const names = await readdir(localCertificates).catch(() => []);
  if (names.length === 0) return;
  await cp(localCertificates, join(root, localCertificates), { recursive: true });
  const bundle = await readFile('/etc/ssl/certs/ca-certificates.crt');
  await writeFile(join(root, certificateBundle), bundle);
}

/** A clone, with the uncommitted changes of the checkout. */
async function copyRepository(root: string, repository: string): Promise<void> {
  const into = join(root, checkout);
  const clone = ['git', 'clone', '--quiet', '--no-hardlinks', repository, into] as const;
  await run([...clone], { deadlineMs: 120_000 });
  const list = ['git', '-C', repository, 'ls-files', '-z', '--cached', '--others', '--exclude-standard'] as const;
  const found = await run([...list], { deadlineMs, limitBytes: 16 * 2 ** 20 });
  const names = [...new Set(found.split('\0'))].filter((name) => name !== '');
  for (const name of names) if (!existsSync(join(repository, name))) await rm(join(into, name), { force: true });
  const input = names.filter((name) => existsSync(join(repository, name))).join('\0');
  const rsync = ['rsync', '-a', '--from0', '--files-from=-', `${repository}/`, `${into}/`] as const;
  await run([...rsync], { deadlineMs: 120_000, input });
}

/** The environment of a login, with this machine's settings for proxies, registries and certificates. */
async function guestEnvironment(root: string): Promise<string[]> {
  const passed = Object.entries(process.env).filter(([name]) => /^(https?_proxy|no_proxy|npm_config_registry)$/i.test(name));
  const certificates = existsSync(join(root, certificateBundle))
    ? ['NODE_EXTRA_CA_CERTS', 'SSL_CERT_FILE', 'CURL_CA_BUNDLE'].map((name) => [name, certificateBundle])
    : [];
  const own = [
    ['PATH', '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
    ['HOME', '/root'],
    ['LANG', 'C.UTF-8'],
    ['TERM', 'dumb'],
  ];
  return [...passed, ...certificates, ...own].map(([name, value]) => `${name}=${value}`);
}

/** pivot_root, not chroot: a chroot permits no user namespace, and PostgreSQL is started in one. */
const initScript = `set -e
root=$1
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
hostname clean-machine
mkdir -p "$root/mnt"
cd "$root"
pivot_root . mnt
exec chroot . /bin/bash -c 'umount --lazy /mnt; cd /; : > /run/clean-machine; trap : TERM INT HUP; while :; do sleep infinity & wait; done'
`;

/** bash as PID 1 reaps orphans: a zombie would appear alive to the programs that wait for its end. */
function enterNamespaces(base: SiteBase, root: string): ChildProcess {
  const namespaces = ['--mount', '--propagation', 'private', '--net', '--uts', '--ipc', '--pid', '--fork', '--kill-child=KILL'];
  const argv = ['--pdeathsig', 'KILL', '--', 'unshare', ...namespaces, 'bash', '-c', initScript, 'init', root];
  return spawn('setpriv', argv, { stdio: ['ignore', 'inherit', 'inherit'], detached: true, env: base.env });
}

async function firstProcess(init: ChildProcess): Promise<number> {
  return until('the clean machine to start', deadlineMs, () => {
    if (init.exitCode !== null) throw new Error(`its first process ended with ${init.exitCode}`);
    const [pid] = childrenOf(init.pid!);
    return pid !== undefined && existsSync(`/proc/${pid}/root/run/clean-machine`) && pid;
  });
}

/** As a host of the local site gets its cable: an address, a route to the outside, and nothing that reaches in. */
async function attachNetwork({ home, network }: SiteBase, pid: number): Promise<void> {
  await applyMachineRules(machineRules(home.tag, network, { gateway: [], local: [] }));
  const veth = vethName(home.tag, 1);
  const input = [
    `link add ${veth} mtu ${hostsMtu} type veth peer name eth0 mtu ${hostsMtu} netns ${pid}`,
    `link set ${veth} master ${network.bridge} up`,
    '',
  ].join('\n');
  await run(['ip', '-batch', '-'], { deadlineMs, input });
  const own = [
    'link set lo up',
    `address add ${hostAddress(network, 1)}/24 dev eth0`,
    'link set eth0 up',
    `route add default via ${network.gateway}`,
    '',
  ].join('\n');
  // The network namespace alone: iproute2 is one of the things that a clean machine lacks.
  await run(['nsenter', `--target=${pid}`, '--net', 'ip', '-batch', '-'], { deadlineMs, input: own });
}

/** Removes the machine when its standard input is closed, or when this process is gone: remove.ts. */
function remover(base: SiteBase): ChildProcess {
  const argv = [join(import.meta.dirname, 'remove.ts'), base.home.path];
  return spawn(process.execPath, argv, { stdio: ['pipe', 'ignore', 'inherit'], detached: true });
}

async function remove(remover: ChildProcess, base: SiteBase): Promise<void> {
  const ended = once(remover, 'exit');
  remover.stdin?.end();
  const [code] = await ended;
  await base.release();
  if (code !== 0) throw new Error(`the clean machine at ${base.home.path} could not be removed: exit ${code}`);
}
