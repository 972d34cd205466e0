import { CommandError, type Connection, listItems } from './client.ts';

/** How many of the newest items of a list are searched for a name: the API's lists do not filter by name. */
export const searchedItems = 2_000;
/** How many ids the message about an ambiguous name has. */
const listedIds = 20;

interface Item {
  id: string;
  state?: string;
  createdAt?: string;
}

interface Kind<T extends Item> {
  /** For messages: "There is no VM …". */
  singular: string;
  plural: string;
  prefix: string;
  path: string;
  /** How the list is narrowed, where its route can. */
  query(name: string): Record<string, string>;
  isCalled(item: T, name: string): boolean;
  /** One that is over has its name only while no other has it: names are used again. */
  isOver(item: T): boolean;
}

interface Named extends Item {
  name: string;
}

const byName = { query: () => ({}), isCalled: (item: Named, name: string) => item.name === name };
const finished = new Set(['succeeded', 'failed', 'cancelled']);

const vms: Kind<Named> = {
  ...byName,
  singular: 'VM',
  plural: 'VMs',
  prefix: 'vm',
  path: '/v1/vms',
  isOver: ({ state }) => state === 'removed',
};
const tasks: Kind<Named> = {
  ...byName,
  singular: 'task',
  plural: 'tasks',
  prefix: 'task',
  path: '/v1/tasks',
  isOver: ({ state }) => finished.has(state ?? ''),
};
const files: Kind<Named> = {
  ...byName,
  singular: 'file',
  plural: 'files',
  prefix: 'file',
  path: '/v1/files',
  isOver: () => false,
};
const owners: Kind<Named> = {
  ...byName,
  singular: 'owner',
  plural: 'owners',
  prefix: 'owner',
  path: '/v1/owners',
  isOver: () => false,
};
const drains: Kind<Item & { finishedAt: string | null }> = {
  singular: 'drain of the host',
  plural: 'drains of the host',
  prefix: 'drain',
  path: '/v1/drains',
  query: (host) => ({ host }),
  isCalled: () => true,
  isOver: ({ finishedAt }) => finishedAt !== null,
};
const migrations: Kind<Item & { finishedAt: string | null }> = {
  singular: 'migration of the VM',
  plural: 'migrations of the VM',
  prefix: 'migration',
  path: '/v1/migrations',
  query: (vm) => ({ vm }),
  isCalled: () => true,
  isOver: ({ finishedAt }) => finishedAt !== null,
};

/** A TypeID: a prefix and 26 digits of Crockford's base 32. */
const isId = (prefix: string, text: string): boolean =>
  text.startsWith(`${prefix}_`) && /^[0-7][0-9a-hjkmnp-tv-z]{25}$/.test(text.slice(prefix.length + 1));

function ambiguous<T extends Item>({ plural }: Kind<T>, name: string, found: T[]): CommandError {
  const lines = found
    .slice(0, listedIds)
    .map(({ id, state, createdAt }) => `\n  ${[id, state, createdAt].filter(Boolean).join('  ')}`);
  const more = found.length > listedIds ? `\n  and ${found.length - listedIds} more` : '';
  return new CommandError(
    `There are ${found.length} ${plural} ${JSON.stringify(name)}; give the id of one:${lines.join('')}${more}`,
  );
}

/**
 * The id that a command's argument stands for: an id itself, which costs no call, or a name, which is looked for among
 * the newest items. Of several with that name the one that is not over is meant; where that does not decide, it throws
 * a CommandError that lists their ids.
 */
async function resolve<T extends Item>(connection: Connection, kind: Kind<T>, text: string): Promise<string> {
  if (isId(kind.prefix, text)) return text;
  const found: T[] = [];
  let searched = 0;
  let complete = true;
  for await (const item of listItems<T>(connection, kind.path, kind.query(text))) {
    if (searched === searchedItems) {
      complete = false;
      break;
    }
    searched += 1;
    if (kind.isCalled(item, text)) found.push(item);
  }
  const current = found.filter((item) => !kind.isOver(item));
  const candidates = current.length > 0 ? current : found;
  if (candidates.length > 1) throw ambiguous(kind, text, candidates);
  if (candidates[0] !== undefined) return candidates[0].id;
  const where = complete ? '' : ` among the newest ${searchedItems}; older ones are found by their id`;
  throw new CommandError(`There is no ${kind.singular} ${JSON.stringify(text)}${where}`);
}

export const resolveVm = (connection: Connection, text: string): Promise<string> => resolve(connection, vms, text);
export const resolveTask = (connection: Connection, text: string): Promise<string> => resolve(connection, tasks, text);
export const resolveOwner = (connection: Connection, text: string): Promise<string> => resolve(connection, owners, text);
export const resolveFile = (connection: Connection, text: string): Promise<string> => resolve(connection, files, text);

/** A drain is also known by its host. */
export const resolveDrain = (connection: Connection, text: string): Promise<string> => resolve(connection, drains, text);

/** A migration is also known by its VM. */
export async function resolveMigration(connection: Connection, text: string): Promise<string> {
  return isId(migrations.prefix, text) ? text : resolve(connection, migrations, await resolveVm(connection, text));
}
