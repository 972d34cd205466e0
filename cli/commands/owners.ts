import { randomUUID } from 'node:crypto';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { callJson, list, type Session } from '../client.ts';
import { resolveOwner } from '../names.ts';
import { collect, given, splitPair } from '../options.ts';
import { printOne, printRows } from '../output.ts';
import { time } from '../times.ts';

interface Quota {
  limit: number;
  used: number;
}

interface Owner {
  id: string;
  name: string;
  quotas: Record<string, Quota>;
  createdAt: string;
}

interface Key {
  id: string;
  owner: string;
  name: string;
  role: string;
  createdAt: string;
  expiresAt: string | null;
  revokedAt: string | null;
}

const idempotent = () => ({ 'Idempotency-Key': randomUUID() });

/** `vcpus=8`; `default` takes the owner's own limit away. */
function limitsOf(texts: string[]): Record<string, number | null> {
  return Object.fromEntries(
    texts.map((text) => {
      const [name, limit] = splitPair(text, '--quota');
      if (limit !== 'default' && !/^\d{1,15}$/.test(limit)) throw new InvalidArgumentError(`--quota ${text} has no number`);
      return [name, limit === 'default' ? null : Number(limit)];
    }),
  );
}

const quotaOption = (command: Command): Command =>
  command.option('--quota <name=limit>', 'a quota, as `berth me` names them; default: the one of the site', collect, []);

const rowsOf = (quotas: Record<string, Quota>) => Object.entries(quotas).map(([name, quota]) => ({ name, ...quota }));

function addOwners(program: Command, { connect, output }: Session): void {
  const owners = program.command('owners').description('owners and their quotas (operators)');

  owners
    .command('ls', { isDefault: true })
    .description('list owners, newest first')
    .addHelpText('after', '\nExample:\n  berth owners ls')
    .action(async () => {
      const of = (name: string) => (owner: Owner) => `${owner.quotas[name]?.used}/${owner.quotas[name]?.limit}`;
      printRows(output(), await list<Owner>(connect(), '/v1/owners', {}, 10_000), {
        id: (owner) => owner.id,
        name: (owner) => owner.name,
        vcpus: of('vcpus'),
        'memory MiB': of('memoryMiB'),
        'disk MiB': of('diskMiB'),
        tasks: of('tasks'),
      });
    });

  owners
    .command('show')
    .description('describe an owner: its quotas, and what counts against them')
    .argument('<owner>', 'its id or its name')
    .addHelpText('after', '\nExample:\n  berth owners show physics')
    .action(async (name: string) => {
      const connection = connect();
      printOne(output(), await callJson<Owner>(connection, `/v1/owners/${await resolveOwner(connection, name)}`));
    });

  quotaOption(owners.command('create'))
    .description('make an owner; its first key is made by berth keys create')
    .argument('<name>', 'what it is called')
    .addHelpText('after', '\nExample:\n  berth owners create physics --quota vcpus=64 --quota reservedVcpuHours=500')
    .action(async (name: string, { quota }: { quota: string[] }) => {
      const json = { name, quotas: limitsOf(quota) };
      printOne(output(), await callJson<Owner>(connect(), '/v1/owners', { method: 'POST', json, headers: idempotent() }));
    });

  quotaOption(owners.command('set'))
    .description("change an owner's quotas")
    .argument('<owner>', 'its id or its name')
    .addHelpText('after', '\nExample:\n  berth owners set physics --quota vcpus=128 --quota tasks=default')
    .action(async (name: string, { quota }: { quota: string[] }) => {
      const connection = connect();
      const path = `/v1/owners/${await resolveOwner(connection, name)}`;
      printOne(output(), await callJson<Owner>(connection, path, { method: 'PATCH', json: { quotas: limitsOf(quota) } }));
    });
}

function addKeys(program: Command, { connect, output }: Session): void {
  const keys = program.command('keys').description('API keys: list, make with an expiry, revoke');

  keys
    .command('ls', { isDefault: true })
    .description('list keys, newest first: what they are for, never the keys themselves')
    .option('--owner <owner>', 'only those of this owner (operators)')
    .addHelpText('after', '\nExample:\n  berth keys ls')
    .action(async ({ owner }: { owner?: string }) => {
      const connection = connect();
      const query = owner === undefined ? {} : { owner: await resolveOwner(connection, owner) };
      printRows(output(), await list<Key>(connection, '/v1/keys', query, 10_000), {
        id: (key) => key.id,
        name: (key) => key.name,
        owner: (key) => key.owner,
        role: (key) => key.role,
        expires: (key) => key.expiresAt,
        revoked: (key) => key.revokedAt,
      });
    });

  keys
    .command('create')
    .description('make a key and print it, once')
    .option('--name <text>', 'what it is for')
    .option('--expires <moment>', 'RFC 3339, or from now on: 30d, 12h', time)
    .option('--owner <owner>', 'whose (operators); by default your own')
    .addOption(new Option('--role <role>', 'operator: of operators alone').choices(['client', 'operator']))
    .addHelpText('after', '\nExample:\n  berth keys create --name laptop --expires 30d')
    .action(async (options: { name?: string; expires?: string; owner?: string; role?: string }) => {
      const connection = connect();
      const owner = options.owner === undefined ? undefined : await resolveOwner(connection, options.owner);
      const json = given({ name: options.name, expiresAt: options.expires, owner, role: options.role });
      printOne(output(), await callJson<Key>(connection, '/v1/keys', { method: 'POST', json, headers: idempotent() }));
    });

  keys
    .command('revoke')
    .description('revoke a key: within two seconds no API process takes it, and what it has open ends')
    .argument('<key>', 'its id')
    .addHelpText('after', '\nExample:\n  berth keys revoke key_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (id: string) =>
      printOne(output(), await callJson<Key>(connect(), `/v1/keys/${encodeURIComponent(id)}`, { method: 'DELETE' })),
    );
}

/** Who may what: `berth me`, `berth owners`, `berth keys`. */
export function addOwnerCommands(program: Command, session: Session): void {
  const { connect, output } = session;
  program
    .command('me')
    .description('who you are to the site, and what you may have and have')
    .addHelpText('after', '\nExample:\n  berth me --json')
    .action(async () => {
      const me = await callJson<{ owner: object; key: object; quotas: Record<string, Quota> }>(connect(), '/v1/me');
      if (output().json) return printOne(output(), me);
      printOne(output(), { owner: me.owner, key: me.key });
      printRows(output(), rowsOf(me.quotas), {
        quota: ({ name }) => name,
        used: ({ used }) => used,
        limit: ({ limit }) => limit,
      });
    });
  addOwners(program, session);
  addKeys(program, session);
}
