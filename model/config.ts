import { z } from 'zod';

/**
 * Every option of every process, read once at start from the environment. Sizes and times carry their unit in
 * the name. A process reads the groups that it uses, so that a host worker never has the database's URL.
 */
const port = z.coerce.number().int().min(0).max(65535);
const flag = z
  .enum(['0', '1'])
  .transform((text) => text === '1')
  .default(false);
const count = (fallback: number) => z.coerce.number().int().min(0).default(fallback);

const list = z.string().transform((text) =>
  text
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== ''),
);

const metrics = {
  /** GET /metrics of a worker; the port above it is taken as well, on 127.0.0.1. 0: no metrics. */
  BERTH_METRICS_PORT: z.coerce.number().int().min(0).max(65534).default(0),
  BERTH_METRICS_LISTEN: z.string().default('127.0.0.1'),
} as const;

const groups = {
  log: z.object({
    /** pino level: trace, debug, info, warn, error */
    BERTH_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('info'),
  }),
  temporal: z.object({
    TEMPORAL_ADDRESS: z.string().default('127.0.0.1:7233'),
    TEMPORAL_NAMESPACE: z.string().default('default'),
    /** URL of Temporal's UI; shown, never requested. */
    BERTH_TEMPORAL_UI: z.string().default('http://127.0.0.1:8233'),
  }),
  ledger: z.object({ DATABASE_URL: z.string() }),
  /** What signs the URLs by which hosts read and write the repository; the same for the API and the control workers. */
  signing: z.object({
    BERTH_SIGNING_KEY: z.string().min(32),
    /** Base URL of the API as the hosts reach it. */
    BERTH_REPOSITORY_URL: z.url(),
  }),
  api: z.object({
    BERTH_API_PORT: port.default(8080),
    /** Addresses to listen on, comma-separated: the public one, and the one on the hosts' network. */
    BERTH_API_LISTEN: z.string().default('127.0.0.1'),
    /** Health and metrics; bind it where operators are. */
    BERTH_OPERATORS_PORT: port.default(0),
    BERTH_OPERATORS_LISTEN: z.string().default('127.0.0.1'),
    /** Folder of the repository's bytes; shared by all API processes. */
    BERTH_REPOSITORY: z.string(),
    BERTH_MAX_FILE_BYTES: count(64 * 2 ** 30),
    /** Bytes an owner may keep, where the owner's row says nothing. */
    BERTH_QUOTA_BYTES: count(256 * 2 ** 30),
    /** Days for which a task's log is kept after its end, bounded while it runs by BERTH_LOG_LIMIT_BYTES a node. */
    BERTH_LOG_RETENTION_DAYS: z.coerce.number().min(0).max(3650).default(30),
    BERTH_MAX_QUEUED: count(1000),
    BERTH_MAX_QUEUED_PER_OWNER: count(200),
    /** VMs that stand alone, of one owner, unless its row says otherwise. */
    BERTH_MAX_VMS_PER_OWNER: count(100),
    /** Requests a minute and key, counted by each API process for itself; 0: no limit. */
    BERTH_RATE_PER_MINUTE: count(6000),
  }),
  control: z.object({
    /** Let inputs' URLs lead to private and loopback addresses. */
    BERTH_ALLOW_INTERNAL_URLS: flag,
    BERTH_INPUT_URL_MAX_BYTES: count(8 * 2 ** 30),
    BERTH_INPUT_URL_MAX_SECONDS: count(600),
    BERTH_LOG_LIMIT_BYTES: count(16 * 2 ** 20),
    /** A younger task may overtake a waiting one this often, and no more. */
    BERTH_MAX_OVERTAKEN: count(8),
    BERTH_GUEST_SUPERNET: z.string().default('10.128.0.0/9'),
    /** Where the bundled workflows are kept, so that a start needn't make them again; not given: nowhere. */
    BERTH_BUNDLE_FOLDER: z.string().optional(),
    ...metrics,
  }),
  host: z.object({
    BERTH_HOST_ID: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, { error: 'expected a DNS label' }),
    /** Address on the hosts' network. */
    BERTH_HOST_ADDRESS: z.ipv4(),
    BERTH_PROVIDER: z.string().default('site'),
    BERTH_DISK: z.string().default('/var/lib/berth'),
    /** CIDR of the hosts' network, which guests must not reach. */
    BERTH_HOSTS_CIDR: z.cidrv4(),
    BERTH_GUEST_SUPERNET: z.string().default('10.128.0.0/9'),
    BERTH_REPOSITORY_URL: z.url(),
    /** Kept back for the host itself. */
    BERTH_RESERVE_VCPUS: count(0),
    BERTH_RESERVE_MEMORY_MIB: count(512),
    BERTH_RESERVE_DISK_MIB: count(2048),
    /** On a machine that plays several hosts: the share of its memory, disk and processors that this host may count. */
    BERTH_HOST_SHARE: z.coerce.number().gt(0).max(1).default(1),
    /** vCPUs promised for each processor. */
    BERTH_VCPU_RATIO: z.coerce.number().gt(0).max(64).default(4),
    BERTH_IMAGE_CACHE_MIB: count(20 * 1024),
    /** What versions of VMs that were moved elsewhere suspended may take, so that coming back carries only what changed. */
    BERTH_KEPT_VERSIONS_MIB: count(4096),
    /** What one migration away from this host, or one disk on its way to it, may take of the network; 0: no limit. */
    BERTH_MIGRATION_MIB_PER_S: count(0),
    ...metrics,
  }),
  /** Read once, when a machine is made a host (infra/systemd). */
  hostSetup: z.object({
    /** Addresses of the site's other hosts, comma-separated: they alone reach this one's services. */
    BERTH_HOST_PEERS: list.pipe(z.array(z.ipv4())),
    /** TCP ports that everybody but guests may reach, comma-separated. */
    BERTH_HOST_OPEN_PORTS: list.pipe(z.array(z.coerce.number<string>().int().min(1).max(65535))).default([22]),
    /** The interface on the hosts' network. */
    BERTH_HOST_UPLINK: z.string().regex(/^[A-Za-z0-9._-]{1,15}$/, { error: 'expected the name of a network interface' }),
  }),
} as const;

type Groups = typeof groups;
type GroupName = keyof Groups;
type Config<N extends GroupName> = { [K in N]: z.infer<Groups[K]> };

/** Reads the named groups, or throws an Error that names each variable, what was found and what was expected. */
export function readConfig<N extends GroupName>(names: readonly N[], env: Record<string, string | undefined>): Config<N> {
  const problems: string[] = [];
  const config: Record<string, unknown> = {};
  for (const name of names) {
    const parsed = groups[name].safeParse(env);
    if (parsed.success) config[name] = parsed.data;
    else
      for (const issue of parsed.error.issues)
        problems.push(`${issue.path.join('.')}: found ${JSON.stringify(env[String(issue.path[0])] ?? null)}; ${issue.message}`);
  }
  if (problems.length > 0) throw new Error(`The configuration is not valid:\n  ${problems.join('\n  ')}`);
  return config as Config<N>;
}
