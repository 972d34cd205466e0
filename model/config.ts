import { z } from 'zod';
import { parsePortRange } from './network/published-port.ts';
import { parseCidr, parseReachException } from './network/reach-exception.ts';
import { parseSealingKeys } from './webhooks/sealing.ts';

/**
 * Every option of every process, read once at start from the environment. Sizes and times have their unit in the name. A
 * process reads the groups that it uses, so that a host worker never sees the database's URL.
 */
const port = z.coerce.number().int().min(0).max(65535);
const flag = z
  .enum(['0', '1'])
  .transform((text) => text === '1')
  .default(false);
const count = (fallback: number) => z.coerce.number().int().min(0).default(fallback);

/** At an edge: a kernel tracks some hundred thousand of them. */
const connections = z.coerce.number().int().min(1).max(1_000_000);

const list = z.string().transform((text) =>
  text
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== ''),
);

/** What `parse` takes; its Error's message is the problem. */
const textOf = <T>(parse: (text: string) => T) =>
  z.string().transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
      return z.NEVER;
    }
  });

/** A comma-separated list of what `parse` takes; its Error's message is the problem. */
const listOf = <T>(parse: (text: string) => T) =>
  list.pipe(
    z
      .array(textOf(parse))
      // Each is a rule of the kernel's, which are compared with a packet one after the other.
      .max(256),
  );

const metrics = {
  BERTH_METRICS_PORT: z.coerce
    .number()
    .int()
    .min(0)
    .max(65534)
    .default(0)
    .describe("Port of `GET /metrics`; the next port is taken as well, on 127.0.0.1, for Temporal's own metrics. 0: no metrics"),
  BERTH_METRICS_LISTEN: z.string().default('127.0.0.1').describe('Address of `GET /metrics`'),
} as const;

const guestSupernet = z
  .string()
  .default('10.128.0.0/9')
  .describe("CIDR from which each owner's network is taken; the same for control workers and hosts");

const allowInternalUrls = flag.describe(
  '1: the URL of an input, or of a webhook, may lead to a private or loopback address; the same for API processes and control workers',
);

/** The description of each variable is its row in docs/configuration.md, which `npm run docs` writes. */
export const groups = {
  log: z.object({
    BERTH_LOG_LEVEL: z
      .enum(['trace', 'debug', 'info', 'warn', 'error'])
      .default('info')
      .describe('Lowest level that is logged (pino)'),
  }),
  temporal: z.object({
    TEMPORAL_ADDRESS: z.string().default('127.0.0.1:7233').describe("Address of Temporal's frontend"),
    TEMPORAL_NAMESPACE: z.string().default('default').describe('Temporal namespace of the site'),
    BERTH_TEMPORAL_UI: z
      .string()
      .default('http://127.0.0.1:8233')
      .describe("URL of Temporal's UI: shown to people, never called"),
  }),
  ledger: z.object({ DATABASE_URL: z.string().describe("URL of the ledger's PostgreSQL database") }),
  signing: z.object({
    BERTH_SIGNING_KEY: z
      .string()
      .min(32)
      .describe('Signs the URLs by which hosts read and write the repository; the same for API processes and control workers'),
    BERTH_SIGNING_KEY_OTHER: z
      .string()
      .min(32)
      .optional()
      .describe('A second key whose URLs are valid as well, while one key replaces the other'),
    BERTH_REPOSITORY_URL: z.url().describe('Base URL of the API as the hosts reach it'),
  }),
  webhooks: z.object({
    BERTH_WEBHOOK_KEYS: textOf(parseSealingKeys)
      .default([])
      .describe(
        'Keys that encrypt the secrets of webhooks, comma-separated, as ID:BASE64 of 32 bytes each; the first encrypts, and each decrypts what it has encrypted. The same for API processes and control workers; none: webhooks are refused. webhooks.md',
      ),
    BERTH_WEBHOOK_TIMEOUT_S: z.coerce
      .number()
      .min(1)
      .max(60)
      .default(15)
      .describe("Seconds within which a webhook's receiver has to answer"),
    BERTH_ALLOW_INTERNAL_URLS: allowInternalUrls,
  }),
  api: z.object({
    BERTH_API_PORT: port.default(8080).describe('Port of the API. 0: any free one'),
    BERTH_API_LISTEN: z
      .string()
      .default('127.0.0.1')
      .describe("Addresses to listen on, comma-separated: the public one, and the one on the hosts' network"),
    BERTH_API_STREAM_URL: z
      .url()
      .optional()
      .describe(
        'Base URL at which hosts reach this very process, for sessions of its clients; not set: the one that hosts use anyway, which is right for a single API process',
      ),
    BERTH_SESSION_IDLE_S: z.coerce
      .number()
      .int()
      .min(0)
      .max(7 * 24 * 3600)
      .default(4 * 3600)
      .describe(
        'Seconds after which a session in a guest, or a connection to a console, is ended in which nothing was sent either way. 0: never',
      ),
    BERTH_OPERATORS_PORT: port.default(0).describe('Port of health and metrics. 0: any free one'),
    BERTH_OPERATORS_LISTEN: z
      .string()
      .default('127.0.0.1')
      .describe('Address of health and metrics, reachable by operators alone'),
    BERTH_REPOSITORY: z.string().describe("Folder of the repository's bytes, shared by all API processes"),
    BERTH_MAX_FILE_BYTES: count(64 * 2 ** 30).describe('Largest file'),
    BERTH_QUOTA_BYTES: count(256 * 2 ** 30).describe("Bytes of files that an owner may keep, unless the owner's row has a limit"),
    BERTH_LOG_RETENTION_DAYS: z.coerce
      .number()
      .min(0)
      .max(3650)
      .default(30)
      .describe("Days for which a task's log is kept after its end"),
    BERTH_QUARANTINE_DAYS: z.coerce
      .number()
      .min(0)
      .max(3650)
      .default(7)
      .describe('Days for which bytes and logs without a row lie in quarantine before they are removed'),
    BERTH_SWEEP_MAX_SHARE: z.coerce
      .number()
      .min(0)
      .max(1)
      .default(0.1)
      .describe('Share of the repository without a row above which nothing is swept until an operator decides'),
    BERTH_MAX_QUEUED: count(1000).describe('Tasks and VMs that may wait for a host'),
    BERTH_MAX_QUEUED_PER_OWNER: count(200).describe('Tasks and VMs of one owner that may wait for a host'),
    BERTH_MAX_VMS_PER_OWNER: count(100).describe("Standalone VMs of one owner, unless the owner's row has a limit"),
    BERTH_MAX_VCPUS_PER_OWNER: count(1024).describe(
      "vCPUs of an owner's VMs and tasks that are not over, waiting ones included, unless the owner's row has a limit",
    ),
    BERTH_MAX_MEMORY_MIB_PER_OWNER: count(4 * 2 ** 20).describe('Memory of them, likewise'),
    BERTH_MAX_DISK_MIB_PER_OWNER: count(64 * 2 ** 20).describe('Disk of them, images included, likewise'),
    BERTH_MAX_TASKS_PER_OWNER: count(1000).describe(
      "Tasks of an owner that are not over, waiting ones included, unless the owner's row has a limit",
    ),
    BERTH_MAX_PORTS_PER_OWNER: count(64).describe("Published ports of an owner, unless the owner's row has a limit"),
    BERTH_MAX_WEBHOOKS_PER_OWNER: count(20).describe("Webhooks of an owner, unless the owner's row has a limit"),
    BERTH_MAX_ENTRIES_PER_OWNER: count(1_000_000).describe(
      "Paths of an owner's tree, those in the trash included, unless the owner's row has a limit",
    ),
    BERTH_TRASH_DAYS: z.coerce
      .number()
      .min(0)
      .max(3650)
      .default(7)
      .describe('Days for which what was deleted from a tree, or replaced there, can be restored. 0: not at all'),
    BERTH_PUBLIC_ADDRESSES: list
      .pipe(z.array(z.ipv4()).max(64))
      .default([])
      .describe(
        'Public addresses of the edges, comma-separated, at which ports are published; none: ports are not published. edges.md',
      ),
    BERTH_PUBLIC_PORTS: textOf(parsePortRange)
      .default({ first: 20_000, last: 29_999 })
      .describe('Public ports that are published at them, as FIRST-LAST'),
    BERTH_MAX_RESERVED_VCPU_HOURS_PER_OWNER: count(4096).describe(
      "vCPU-hours that are left of an owner's promised leases, unless the owner's row has a limit",
    ),
    BERTH_MAX_HORIZON_DAYS: count(92).describe(
      "Days from now by which an owner's promised lease has to end, unless the owner's row has a limit",
    ),
    BERTH_LOG_READERS_PER_OWNER: z.coerce
      .number()
      .int()
      .min(1)
      .default(50)
      .describe(
        'Logs that one owner may read or follow at a time, and waits for events and streams of them, together; counted by each API process',
      ),
    BERTH_PLANS_PER_MINUTE: count(120).describe(
      'Quotes and readings of the schedule of one owner in a minute, counted by each API process. 0: no limit',
    ),
    BERTH_QUOTE_S: count(600).describe('Seconds for which the prices of a quote hold'),
    BERTH_UNKNOWN_KEYS_PER_MINUTE: count(60).describe(
      'Unknown API keys in a minute from one address, after which others are refused unread; keys that were valid lately are not counted. 0: no limit',
    ),
    BERTH_RATE_PER_MINUTE: count(6000).describe('Requests a minute of one key, counted by each API process. 0: no limit'),
  }),
  control: z.object({
    BERTH_ALLOW_INTERNAL_URLS: allowInternalUrls,
    BERTH_INPUT_URL_MAX_BYTES: count(8 * 2 ** 30).describe('Largest input that is fetched from a URL'),
    BERTH_INPUT_URL_MAX_SECONDS: count(600).describe('Longest time for fetching an input from a URL'),
    BERTH_LOG_LIMIT_BYTES: count(16 * 2 ** 20).describe(
      'Largest log of one node of a task: of a longer output the begin and the end are kept',
    ),
    BERTH_EVENT_RETENTION_DAYS: z.coerce
      .number()
      .min(0)
      .max(36_500)
      .default(90)
      .describe(
        'Days for which events are kept after they were published, at least; the same for all control workers. 0: for ever',
      ),
    BERTH_ENDED_RETENTION_DAYS: z.coerce
      .number()
      .min(0)
      .max(36_500)
      .default(90)
      .describe(
        'Days for which tasks and VMs are kept after their end, at least; the same for all control workers. 0: for ever. Events, files and the books are kept whatever this is',
      ),
    BERTH_MAX_OVERTAKEN: count(8).describe('How many younger tasks may be placed before a waiting one'),
    BERTH_MONEY_GRACE_S: count(1800).describe(
      'Seconds from the warning that an account cannot fill the hold of a lease to the suspension of its VM, or the cancellation of its task',
    ),
    BERTH_MONEY_KEEP_S: count(7 * 24 * 3600).describe('Seconds from that suspension to the removal of the VM'),
    BERTH_GUEST_SUPERNET: guestSupernet,
    BERTH_BUNDLE_FOLDER: z
      .string()
      .optional()
      .describe('Folder that caches the bundled workflows between starts; not set: no cache'),
    ...metrics,
  }),
  host: z.object({
    BERTH_HOST_ID: z
      .string()
      .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, { error: 'expected a DNS label' })
      .describe('Name of the host: a DNS label'),
    BERTH_HOST_ADDRESS: z.ipv4().describe("Address on the hosts' network"),
    BERTH_PROVIDER: z.string().default('site').describe('Who provides the host; part of its facts'),
    BERTH_JOIN_TOKEN: z
      .string()
      .optional()
      .describe('Token with which the host joins a provider that an owner has, instead of `BERTH_PROVIDER`; market.md'),
    BERTH_DISK: z.string().default('/var/lib/berth').describe('Folder of images, VMs and templates; one file system of its own'),
    BERTH_HOSTS_CIDR: z.cidrv4().describe("CIDR of the hosts' network, which guests must not reach"),
    BERTH_GUEST_SUPERNET: guestSupernet,
    BERTH_GUEST_REACHES: listOf(parseReachException)
      .default([])
      .describe(
        'What guests reach of the private, shared and link-local addresses, comma-separated: an address or CIDR each, with `:port` or `:port-port` and `/tcp` or `/udp` behind it for ports alone; networks.md',
      ),
    BERTH_SITE_CIDRS: listOf(parseCidr)
      .default([])
      .describe(
        "Addresses and CIDRs, comma-separated, that guests must not reach besides the hosts' network, Temporal and the API: where else the site listens",
      ),
    BERTH_REPOSITORY_URL: z.url().describe('Base URL of the API as the hosts reach it'),
    BERTH_HOST_KEY_FILE: z
      .string()
      .default('/etc/berth/host.key')
      .describe("File with this host's key, by which it fetches the arguments of its steps; `site-admin.ts host-key` prints it"),
    BERTH_RESERVE_VCPUS: count(0).describe('vCPUs kept for the host itself'),
    BERTH_RESERVE_MEMORY_MIB: count(512).describe('Memory kept for the host itself'),
    BERTH_RESERVE_DISK_MIB: count(2048).describe('Disk kept for the host itself'),
    BERTH_HOST_SHARE: z.coerce
      .number()
      .gt(0)
      .max(1)
      .default(1)
      .describe("Share of the machine's memory, disk and processors that this host counts, where a machine plays several hosts"),
    BERTH_GUEST_GROUP: list
      .default([])
      .describe(
        "Folder of the control group that guests' processes are in, by which the load is measured; with cgroup v1 that of `cpu` and that of `cpuacct`, comma-separated. Not set: by the machine; load.md",
      ),
    BERTH_VCPU_RATIO: z.coerce.number().gt(0).max(64).default(4).describe('vCPUs that are promised for each processor'),
    BERTH_IMAGE_CACHE_MIB: count(20 * 1024).describe('Disk for cached images and their templates'),
    BERTH_KEPT_VERSIONS_MIB: count(4096).describe('Disk for previous versions of VMs that left by a cold migration'),
    BERTH_MIGRATION_MIB_PER_S: count(0).describe(
      'Bandwidth of one migration away from this host, and of one disk on its way to it. 0: no limit',
    ),
    ...metrics,
    BERTH_PREVIOUS_END: z
      .string()
      .default('')
      .describe(
        "How the host worker before this one ended, as its supervisor says: a signal, or systemd's SERVICE_RESULT and EXIT_STATUS",
      ),
  }),
  edge: z.object({
    BERTH_EDGE_ID: z
      .string()
      .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, { error: 'expected a DNS label' })
      .describe('Name of the edge: a DNS label'),
    BERTH_EDGE_ADDRESS: z.ipv4().describe("Address on the hosts' network, over which it joins owners' segments"),
    BERTH_EDGE_PUBLIC_INTERFACE: z
      .string()
      .regex(/^[A-Za-z0-9._-]{1,15}$/, { error: 'expected the name of a network interface' })
      .describe('The interface on which clients come: it gets the public addresses while the edge is active'),
    BERTH_EDGE_OPEN_PORTS: list
      .pipe(z.array(z.coerce.number<string>().int().min(1).max(65535)).max(64))
      .default([22])
      .describe('TCP ports of the edge itself, at addresses that are not public, comma-separated'),
    BERTH_EDGE_CONNECTIONS_PER_CLIENT: connections
      .default(4096)
      .describe("Connections that one client's address may have to the published ports of one owner; more are dropped"),
    BERTH_EDGE_CONNECTIONS_PER_OWNER: connections
      .default(32_768)
      .describe(
        "Connections that all clients may have to the published ports of one owner; the kernel's own limit is for all owners",
      ),
    BERTH_REPOSITORY_URL: z.url().describe('Base URL of the API as the edge reaches it'),
    BERTH_EDGE_KEY_FILE: z
      .string()
      .default('/etc/berth/edge.key')
      .describe("File with this edge's key, by which it asks for its ports; `site-admin.ts edge-key` prints it"),
    ...metrics,
  }),
  hostSetup: z.object({
    BERTH_HOST_PEERS: list
      .pipe(z.array(z.ipv4()))
      .describe("Addresses of the site's other hosts, comma-separated; only they reach this host's services"),
    BERTH_HOST_EDGES: list
      .pipe(z.array(z.ipv4()))
      .default([])
      .describe("Addresses of the site's edges, comma-separated: they reach this host's VXLAN and nothing else"),
    BERTH_HOST_OPEN_PORTS: list
      .pipe(z.array(z.coerce.number<string>().int().min(1).max(65535)))
      .default([22])
      .describe('TCP ports that everybody but guests may reach, comma-separated'),
    BERTH_HOST_UPLINK: z
      .string()
      .regex(/^[A-Za-z0-9._-]{1,15}$/, { error: 'expected the name of a network interface' })
      .describe("The interface on the hosts' network"),
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
