import { appendFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { edgeKeyOf, hostKeyOf } from '../../model/repository/host-key.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { archiveExceptions, debianArchives } from './archive-exceptions.ts';
import { guestGroupInHost } from './host/guest-group.ts';
import { edgeName, type Host, hostName, startHost } from './host/host.ts';
import { applyMachineRules, machineRules, publicAddress } from './network.ts';
import { startPostgres } from './postgres.ts';
import { isListening, takesConnections } from './processes.ts';
import { type KeyFiles, publishImage, seedOwners } from './seed.ts';
import { choosePorts, hostMetricsPort, type Ports, type Settings, settingsOf } from './settings.ts';
import { acquireSiteBase, type SiteBase } from './site-base.ts';
import { type Child, type ChildSpec, supervise } from './supervise.ts';
import { startTemporal } from './temporal.ts';
import { until } from './until.ts';

export interface SiteOptions {
  /** The site's folder, with everything that must survive a restart. */
  home: string;
  hosts: number;
  /** How many processors the guests of each host may keep busy together, 0.5 for half of one; all of the machine's unless said. */
  guestProcessors?: number | null;
  /** 1 unless said; 0: no ports are published. */
  edges?: number;
  /** 0: any free one; null: the default one where it is free. */
  apiPort: number | null;
  /** Additional settings (model/config.ts) for the API, the control worker and the host workers. */
  settings?: Record<string, string>;
  /** Aborts the start, and stops what already runs. */
  signal?: AbortSignal;
  /** Receives a message for each step, and for each process that dies and restarts. */
  note: (text: string) => void;
}

/** What a user needs to know of a running site: the READY line. */
export interface Ready extends KeyFiles {
  api: string;
  temporalUi: string;
  /** An operators' page does not exist yet. */
  console: null;
  /** The public address at which ports are published; null: without edges. */
  edge: string | null;
}

export interface Site {
  ready: Ready;
  /** host:port of Temporal's frontend. */
  temporalAddress: string;
  databaseUrl: string;
  /** Health and metrics of the API. */
  operatorsUrl: string;
  hosts: readonly Host[];
  edges: readonly Host[];
  /** `postgres`, `temporal`, `api`, `control`, or a machine's: `host1/worker`, `host1/libvirtd`, `edge1/worker`, … */
  child: (name: string) => Child;
  stop: () => Promise<void>;
}

const root = fileURLToPath(new URL('../..', import.meta.url));
/** As WatchdogSec in infra/systemd. */
const watchdogLimitMs = 30_000;
const nodeArgv = (entry: string): string[] => [process.execPath, join(root, entry)];

/**
 * Starts a whole site on this machine and returns once a task can run on it. Starts independent parts in parallel. When
 * it throws, nothing is left.
 */
export async function startSite(given: SiteOptions): Promise<Site> {
  const ground = await acquireSiteBase(given.home, given.note);
  const options = { ...given, note: teeToLog(given.note, join(ground.home.logs, 'site.log')) };
  const running: RunningParts = { children: new Map(), hosts: [], edges: [], stopping: false };
  const stop = (): Promise<void> => stopAll(ground, running);
  try {
    const started = await Promise.race([startParts(options, ground, running), rejectOnAbort(options.signal)]);
    return { ...started, hosts: running.hosts, edges: running.edges, child: (name) => find(running, name), stop };
  } catch (error) {
    await stop().catch((failure: unknown) => options.note(String(failure)));
    throw error;
  }
}

interface RunningParts {
  /** Once true, no further process starts. */
  stopping: boolean;
  children: Map<string, Child>;
  hosts: Host[];
  edges: Host[];
}

/** Writes each message to the site's log as well, beside the logs of the processes that it is about. */
function teeToLog(note: SiteOptions['note'], path: string): SiteOptions['note'] {
  return (text) => {
    appendFileSync(path, `${new Date().toISOString()} ${text}\n`);
    note(text);
  };
}

function rejectOnAbort(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    if (signal?.aborted) reject(signal.reason);
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

function refuseWhenStopping(running: RunningParts): void {
  if (running.stopping) throw new Error('the site is being stopped');
}

/** The parts of Site that the start returns: see startSite. */
type Started = Omit<Site, 'stop' | 'child' | 'hosts' | 'edges'>;

async function startParts(options: SiteOptions, ground: SiteBase, running: RunningParts): Promise<Started> {
  const { note } = options;
  const sinceMs = Date.now();
  // What is awaited below is caught at once as well: until then a rejection must not be unhandled.
  // This takes a second, in which other parts start.
  const exceptions = debianArchives().then((urls) => archiveExceptions(urls));
  exceptions.catch(() => undefined);
  const ports = await choosePorts(ground, options.apiPort);
  const offered = { gateway: [ports.api], local: [ports.temporal.port] };
  await applyMachineRules(machineRules(ground.home.tag, ground.network, offered));
  note(`the hosts' network is ${ground.network.cidr}`);
  refuseWhenStopping(running);
  const temporal = startTemporal(ground.home, ports.temporal, ground.env, note);
  running.children.set('temporal', temporal);
  const databaseUrl = startDatabase(ground, ports.postgres, running, note);
  databaseUrl.catch(() => undefined);
  const reaches = await exceptions;
  if (reaches.length > 0) note(`guests reach the package archives at ${reaches.join(', ')}`);
  const settings = settingsOf(ground, ports, options.hosts, edgesOf(options), reaches, options.settings ?? {});
  refuseWhenStopping(running);
  startHosts(options, ground, running, settings);
  startEdges(options, ground, running, settings);
  const infrastructure = Promise.all([
    temporal.ready.then(() => note('Temporal serves')),
    ...[...running.hosts, ...running.edges].map((one) => one.ready.then(() => note(`${one.id} at ${one.address} is up`))),
  ]);
  infrastructure.catch(() => undefined);
  const started = await startBerth({ options, ground, running, ports, settings }, await databaseUrl, sinceMs);
  await infrastructure;
  return started;
}

interface StartContext {
  options: SiteOptions;
  ground: SiteBase;
  running: RunningParts;
  ports: Ports;
  settings: Settings;
}

/** Applies the schema, starts the API and the control worker, seeds a new site; then waits until all hosts have registered. */
async function startBerth(plan: StartContext, databaseUrl: string, sinceMs: number): Promise<Started> {
  const { ground, running, ports, settings } = plan;
  const { note } = plan.options;
  await applyMigrations(databaseUrl);
  note('PostgreSQL serves, and has the schema');
  const ledger = openLedger(databaseUrl, 2);
  try {
    const env = { ...ground.env, ...settings.control, DATABASE_URL: databaseUrl };
    startProcess(plan, 'api', env, () => takesConnections(ports.operators));
    startProcess(plan, 'control', env, () => takesConnections(ports.control));
    const keys = await seedOwners(ledger, ground.home.keys);
    const api = `http://127.0.0.1:${ports.api}`;
    await find(running, 'api').ready;
    note('the API serves');
    await Promise.all([
      seedImage(plan, ledger, api, keys),
      find(running, 'control').ready.then(() => note('the control worker runs')),
      hostsRegistered(ledger, running.hosts, sinceMs).then(() => note('all hosts have registered')),
    ]);
    const edge = edgesOf(plan.options) === 0 ? null : publicAddress(ground.network);
    return {
      ready: { api, temporalUi: `http://127.0.0.1:${ports.temporal.uiPort}`, console: null, edge, ...keys },
      temporalAddress: `127.0.0.1:${ports.temporal.port}`,
      databaseUrl,
      operatorsUrl: `http://127.0.0.1:${ports.operators}`,
    };
  } finally {
    await ledger.$disconnect();
  }
}

/** Uses DATABASE_URL where it is set and starts no PostgreSQL then. */
async function startDatabase(
  ground: SiteBase,
  port: number,
  running: RunningParts,
  note: (text: string) => void,
): Promise<string> {
  const given = process.env.DATABASE_URL;
  if (given !== undefined) return given;
  const { child, database } = await startPostgres(ground.home, port, ground.env, note, () => refuseWhenStopping(running));
  running.children.set('postgres', child);
  return database;
}

function startHosts(options: SiteOptions, ground: SiteBase, running: RunningParts, settings: Settings): void {
  const { home, env } = ground;
  for (let index = 1; index <= options.hosts; index += 1) {
    const worker = {
      argv: nodeArgv('workers/host.ts'),
      env: { ...env, ...guestGroupOf(options), ...settings.host(index) },
      // The site's home is hidden from its hosts, but for the folder of their own logs (host-init.sh).
      watchdog: { socket: join(home.logs, `host${index}`, 'notify'), seenAs: '/var/log/notify', limitMs: watchdogLimitMs },
      // A worker serves its metrics once it accepts work.
      isReady: (pid: number) => isListening(pid, hostMetricsPort),
    };
    const place = placeOf('host', index, options, ground);
    const key = hostKeyOf(settings.signingKey, hostName(index));
    const guestProcessors = options.guestProcessors ?? null;
    running.hosts.push(startHost({ ...place, guestProcessors, key, env, worker, note: options.note }));
  }
}

/** How the host's worker finds the control group of its guests. */
function guestGroupOf({ guestProcessors }: SiteOptions): Record<string, string> {
  return guestProcessors == null ? {} : { BERTH_GUEST_GROUP: guestGroupInHost().join(',') };
}

const edgesOf = ({ edges = 1 }: SiteOptions): number => edges;

function placeOf(role: 'host' | 'edge', index: number, options: SiteOptions, { home, network, cache }: SiteBase) {
  return { role, home, network, index, count: options.hosts, edges: edgesOf(options), libvirtCache: join(cache, 'libvirt') };
}

function startEdges(options: SiteOptions, ground: SiteBase, running: RunningParts, settings: Settings): void {
  const { home, env } = ground;
  const edges = edgesOf(options);
  for (let index = 1; index <= edges; index += 1) {
    const worker = {
      argv: nodeArgv('workers/edge.ts'),
      env: { ...env, ...settings.edge(index) },
      watchdog: { socket: join(home.logs, edgeName(index), 'notify'), seenAs: '/var/log/notify', limitMs: watchdogLimitMs },
      isReady: (pid: number) => isListening(pid, hostMetricsPort),
    };
    const place = placeOf('edge', index, options, ground);
    const key = edgeKeyOf(settings.signingKey, edgeName(index));
    running.edges.push(startHost({ ...place, key, env, worker, note: options.note }));
  }
}

function startProcess(
  plan: StartContext,
  name: 'api' | 'control',
  env: Record<string, string>,
  isReady: ChildSpec['isReady'],
): void {
  refuseWhenStopping(plan.running);
  const logFile = join(plan.ground.home.logs, `${name}.log`);
  const argv = nodeArgv(`workers/${name}.ts`);
  const watchdog = { socket: join(plan.ground.home.run, `${name}-notify`), limitMs: watchdogLimitMs };
  const child = supervise({ name, argv, env, logFile, isReady, watchdog, stopMs: 10_000 }, plan.options.note);
  plan.running.children.set(name, child);
}

async function seedImage(plan: StartContext, ledger: Ledger, api: string, keys: KeyFiles): Promise<void> {
  const folder = join(plan.ground.cache, 'images', 'debian-12', 'current');
  if (!existsSync(folder)) throw new Error(`There is no image at ${folder}: run npm run setup`);
  const published = await publishImage(ledger, api, keys.operatorKeyFile, folder);
  if (published !== null) plan.options.note(`published the image ${published}`);
}

/** Waits until every host of this run has registered its resources with the ledger. */
async function hostsRegistered(ledger: Ledger, hosts: readonly Host[], sinceMs: number): Promise<void> {
  const id = { in: hosts.map((host) => host.id) };
  await Promise.all(hosts.map((host) => host.ready));
  await until('all hosts to have registered', 60_000, async () => {
    const up = await ledger.host.count({ where: { id, state: 'up', seenAt: { gte: new Date(sinceMs) } } });
    return up === hosts.length;
  });
}

function find(running: RunningParts, name: string): Child {
  const [host, part] = name.split('/');
  const child =
    part === undefined
      ? running.children.get(name)
      : [...running.hosts, ...running.edges].find(({ id }) => id === host)?.child(part);
  if (child === undefined) throw new Error(`The site has no process ${name}`);
  return child;
}

/** Stops workers first, then their dependencies; a part that can't be stopped doesn't prevent the others from stopping. */
async function stopAll(ground: SiteBase, running: RunningParts): Promise<void> {
  running.stopping = true;
  const stage = async (stops: (Promise<unknown> | undefined)[]): Promise<unknown[]> =>
    (await Promise.allSettled(stops)).flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
  const failures = [
    ...(await stage([
      running.children.get('api')?.stop(),
      running.children.get('control')?.stop(),
      ...[...running.hosts, ...running.edges].map((machine) => machine.stop()),
    ])),
    ...(await stage([running.children.get('temporal')?.stop(), running.children.get('postgres')?.stop()])),
    ...(await stage([ground.release()])),
  ];
  if (failures.length > 0) throw new AggregateError(failures, 'The site did not stop in order');
}
