import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { groups } from '../../model/config.ts';

type GroupName = keyof typeof groups;

/** The programs that read the environment through model/config.ts. */
const processes = [
  { name: 'API', file: 'workers/api.ts' },
  { name: 'control worker', file: 'workers/control.ts' },
  { name: 'host worker', file: 'workers/host.ts' },
  { name: 'host setup', file: 'infra/systemd/prepare-host.ts' },
  { name: 'site-admin', file: 'infra/systemd/site-admin.ts' },
] as const;

/** Variables of the local site, of the command line client and of the tests. Their programs read them directly. */
const otherVariables = [
  ['BERTH_HOSTS', '`npm start`', '3', 'Number of hosts of the local site'],
  ['BERTH_EDGES', '`npm start`', '1', 'Number of its edges; 0: it publishes no ports'],
  [
    'BERTH_GUEST_PROCESSORS',
    '`npm start`',
    'none',
    'Processors that the guests of each host may keep busy together, such as 0.5; not set: all of the machine; load.md',
  ],
  ['BERTH_HOME', '`npm start`', '`.berth`', 'Folder of all that survives a restart of the local site; one running site a folder'],
  ['BERTH_API_PORT', '`npm start`', '8080 where it is free', 'Port of the API. 0: any free one'],
  ['DATABASE_URL', '`npm start`', 'none', 'A PostgreSQL database to use instead of the embedded one'],
  [
    'BERTH_CACHE',
    'setup, local site',
    '`~/.cache/berth`',
    'Folder that checkouts and sites share: tools, guest images, compiled code',
  ],
  ['BERTH_API', '`berth`', 'none', 'URL of the API'],
  ['BERTH_KEY', '`berth`', 'none', 'API key'],
  ['BERTH_KEY_FILE', '`berth`', 'none', 'File with the API key, where `BERTH_KEY` is not set'],
  ['BERTH_CALM_S', 'tests', '150', 'Seconds in which nothing may move after the experiment of test/site/load'],
  ['BERTH_PROPERTY_RUNS', 'tests', 'by test', 'Number of random cases of the property tests'],
  ['BERTH_PROPERTY_SEED', 'tests', '20261125', 'Seed of the property tests, or `random`'],
  ['BERTH_TEST_TIER', 'tests', 'none', '`full`: every case, as `npm run test:full`'],
  ['BERTH_TRACE_SEED', 'tests', '20261125', 'Seed of the generated traces'],
] as const;

/** Variables in the environment of a task's command besides the `env` of its task. */
const commandVariables = [
  ['BERTH_TASK', 'Id of the task'],
  ['BERTH_NODE', 'Number of this VM among those of the task, from 0'],
  ['BERTH_NODES', 'Number of VMs of the task'],
] as const;

/** The text of docs/configuration.md. Reads paths of a checkout in the current folder. */
export function configurationDocument(): string {
  const readers = processes.map(({ name, file }) => ({ name, groups: groupsReadBy(file) }));
  const variables = new Map<string, { readers: Set<string>; schema: z.ZodType }>();
  for (const name of Object.keys(groups) as GroupName[])
    for (const [variable, schema] of Object.entries(groups[name].shape)) {
      const entry = variables.get(variable) ?? { readers: new Set(), schema };
      for (const reader of readers) if (reader.groups.includes(name)) entry.readers.add(reader.name);
      variables.set(variable, entry);
    }
  const rows = [...variables].map(([variable, entry]) => [
    `\`${variable}\``,
    [...entry.readers].join(', '),
    typeOf(entry.schema),
    defaultOf(entry.schema),
    entry.schema.description ?? '',
  ]);
  return `<!-- Written by \`npm run docs\` from model/config.ts. -->

# Configuration

Every process reads its options from the environment, once, when it starts. It refuses to start with a message that names
each variable that is missing or wrong. Only the variables of a process's own groups are read: a host worker never sees the
database's URL. The local site sets addresses, keys and folders by itself and passes every other variable on.

${table(['variable', 'read by', 'type', 'default', 'meaning'], rows)}

## Outside model/config.ts

${table(
  ['variable', 'read by', 'default', 'meaning'],
  otherVariables.map(([variable, ...rest]) => [`\`${variable}\``, ...rest]),
)}

## In a task's command

${table(
  ['variable', 'meaning'],
  commandVariables.map(([variable, meaning]) => [`\`${variable}\``, meaning]),
)}
`;
}

/** The groups in a program's single call of readConfig. */
function groupsReadBy(file: string): string[] {
  const call = /readConfig\(\[([^\]]*)\]/.exec(readFileSync(file, 'utf8'));
  if (call === null) throw new Error(`${file} does not call readConfig with a list of groups`);
  return [...call[1]!.matchAll(/'(\w+)'/g)].map((match) => match[1]!);
}

const formats: Record<string, string> = { uri: 'URL', ipv4: 'IPv4 address', cidrv4: 'IPv4 CIDR' };

function typeOf(schema: z.ZodType): string {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  if (json.enum) return json.enum.map((value) => `\`${value}\``).join(', ');
  if (json.type === 'integer' || json.type === 'number') return rangeOf(json);
  if (json.minLength) return `text of at least ${json.minLength} characters`;
  return formats[json.format ?? ''] ?? 'text';
}

function rangeOf({ type, minimum, exclusiveMinimum, maximum }: z.core.JSONSchema.BaseSchema): string {
  const lower = exclusiveMinimum === undefined ? `≥ ${minimum}` : `> ${exclusiveMinimum}`;
  const upper = maximum === undefined || maximum === Number.MAX_SAFE_INTEGER ? '' : `, ≤ ${maximum}`;
  return `${type} ${lower}${upper}`;
}

/** The value of the variable when it is not set; "required" where the process does not start without it. */
function defaultOf(schema: z.ZodType): string {
  const { success, data } = schema.safeParse(undefined);
  if (!success) return 'required';
  if (data === undefined) return 'none';
  return `\`${typeof data === 'boolean' ? Number(data) : String(data)}\``;
}

function table(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n');
}
