import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { PrismaPg } from '@prisma/adapter-pg';
import { bindMigrationAwareSqlAdapterFactory, ColumnTypeEnum, DriverAdapterError } from '@prisma/driver-adapter-utils';
import * as bindings from '@prisma/schema-engine-wasm/schema_engine_bg';
import pg from 'pg';

// Node has it, but TypeScript declares it in the browser's library only.
declare const WebAssembly: {
  instantiate(bytes: Uint8Array, imports: object): Promise<{ instance: { exports: Record<string, unknown> } }>;
};

type SchemaEngine = bindings.SchemaEngine;

/** All tables of the database belong to Berth. */
export const wholeDatabase: bindings.SchemaFilter = { externalTables: [], externalEnums: [] };

const schemaUrl = new URL('schema.prisma', import.meta.url);

/** The datamodel, in the engine's shape. */
export async function readSchema(): Promise<bindings.SchemasContainer> {
  return { files: [{ path: 'schema.prisma', content: await readFile(schemaUrl, 'utf8') }] };
}

let instantiated: Promise<void> | undefined;

/**
 * The engine's imports. It does not clear the timer of its lock's deadline (ten seconds) after it has the lock, so timers
 * must not keep the process alive.
 */
function imports(): object {
  const timer = (act: () => void, ms: number) => setTimeout(act, ms).unref();
  const entries = Object.entries(bindings).map(([name, value]) => [name, name.startsWith('__wbg_setTimeout_') ? timer : value]);
  return Object.fromEntries(entries);
}

async function instantiate(): Promise<void> {
  const folder = dirname(createRequire(import.meta.url).resolve('@prisma/schema-engine-wasm/schema_engine_bg'));
  const bytes = await readFile(join(folder, 'schema_engine_bg.wasm'));
  const { instance } = await WebAssembly.instantiate(bytes, { './schema_engine_bg.js': imports() });
  bindings.__wbg_set_wasm(instance.exports);
  const start = instance.exports.__wbindgen_start;
  if (typeof start === 'function') start();
}

/**
 * PostgreSQL's one-byte type "char", which its catalogue uses for flags. The engine expects it, but the adapter does not know
 * it: it passes the adapter under the OID of a type that the catalogue does not use.
 */
const charOid = 18;
const uuidOid = 2950;

/** One connection. */
function openPool(databaseUrl: string): pg.Pool {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1 });
  // A broken connection also rejects the query that uses it, which is handled there.
  pool.on('error', () => undefined);
  const query = pool.query.bind(pool);
  const relabelled = async (config: pg.QueryArrayConfig) => {
    const result = await query(config);
    // A script of several statements has an array of results.
    for (const field of result.fields ?? []) if (field.dataTypeID === charOid) field.dataTypeID = uuidOid;
    return result;
  };
  return Object.assign(pool, { query: relabelled });
}

/** Counts a migration's step in the transaction of its script, so that the record is true at any moment. */
const countStep = `
DO $$ BEGIN
  IF to_regclass('_prisma_migrations') IS NOT NULL THEN
    UPDATE _prisma_migrations SET applied_steps_count = 1 WHERE finished_at IS NULL AND rolled_back_at IS NULL;
  END IF;
END $$`;

async function runScript(pool: pg.Pool, script: string): Promise<void> {
  try {
    await pool.query(`${script}\n;${countStep}`);
  } catch (error) {
    if (!(error instanceof pg.DatabaseError)) throw error;
    const { code = '', severity = '', message, detail, column, hint } = error;
    throw new DriverAdapterError({ kind: 'postgres', code, severity, message, detail, column, hint });
  }
}

class EngineAdapter extends PrismaPg {
  readonly #pool: pg.Pool;

  constructor(pool: pg.Pool) {
    super(pool);
    this.#pool = pool;
  }

  /**
   * The adapter's own executeScript splits a script at each semicolon, which breaks the bodies of functions. Sent as one
   * simple query, a migration is also one transaction.
   */
  override async connect() {
    const adapter = await super.connect();
    const queryRaw = adapter.queryRaw.bind(adapter);
    adapter.queryRaw = async (query) => {
      const result = await queryRaw(query);
      const columnTypes = result.columnTypes.map((type) => (type === ColumnTypeEnum.Uuid ? ColumnTypeEnum.Character : type));
      return { ...result, columnTypes };
    };
    adapter.executeScript = (script) => runScript(this.#pool, script);
    return adapter;
  }
}

/**
 * Runs `work` with Prisma's own schema engine on one connection to the database. The engine is the WebAssembly build, which
 * needs no download.
 */
export async function withSchemaEngine<T>(databaseUrl: string, work: (engine: SchemaEngine) => Promise<T>): Promise<T> {
  instantiated ??= instantiate();
  await instantiated;
  const pool = openPool(databaseUrl);
  const factory = bindMigrationAwareSqlAdapterFactory(new EngineAdapter(pool));
  try {
    const schema = await readSchema();
    const datamodels = schema.files.map((file): [string, string] => [file.path, file.content]);
    const engine = await bindings.SchemaEngine.new({ datamodels }, () => undefined, factory);
    try {
      return await work(engine);
    } finally {
      engine.free();
    }
  } finally {
    await pool.end();
  }
}
