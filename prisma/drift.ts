import { pathToFileURL } from 'node:url';
import { readConfig } from '../model/config.ts';
import { readSchema, wholeDatabase, withSchemaEngine } from './schema-engine.ts';

/**
 * The SQL that changes the database to schema.prisma; empty when they agree. The database has all migrations, so this is
 * the body of the next one. Checks and triggers, which are written by hand, are not compared.
 */
export async function drift(databaseUrl: string): Promise<string> {
  const schema = await readSchema();
  const result = await withSchemaEngine(databaseUrl, (engine) =>
    engine.diff({
      from: { tag: 'schemaDatasource', ...schema, configDir: '' },
      to: { tag: 'schemaDatamodel', ...schema },
      script: true,
      exitCode: null,
      filters: wholeDatabase,
    }),
  );
  const script = result.stdout ?? '';
  return script.includes('This is an empty migration') ? '' : script;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  process.stdout.write(await drift(readConfig(['ledger'], process.env).ledger.DATABASE_URL));
}
