import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

/**
 * Applies a map of renames to recorded histories, so that a pure rename of workflow types, activities, signals or payload
 * fields can be shown to leave every workflow's sequence of commands unchanged:
 *
 *   infra/run test/replay/rename-histories.ts test/replay/renames/0.2.0.json FROM TO
 *
 * FROM holds histories from before the rename, for instance those of `git show`. Copy what TO gets over
 * test/replay/histories and run `npm test replay`: a history that replays came from the same commands. Then record the
 * histories anew (record.ts).
 */
const Renames = z.strictObject({
  /** Workflow types, activities and signals: one name for one, wherever a name stands. */
  names: z.record(z.string(), z.string()),
  /** Prefixes of workflow ids. */
  idPrefixes: z.record(z.string(), z.string()).default({}),
  /** Fields of payloads, in every object. */
  fields: z.record(z.string(), z.string()).default({}),
  /** Fields that are renamed only in objects that have all of `where` (and, where it is given, this `kind`). */
  fieldsWhere: z
    .array(
      z.strictObject({
        where: z.array(z.string()),
        kind: z.array(z.string()).optional(),
        fields: z.record(z.string(), z.string()),
      }),
    )
    .default([]),
});
type Renames = z.infer<typeof Renames>;
type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const isObject = (value: Json): value is { [key: string]: Json } =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function renameText(text: string, { names, idPrefixes }: Renames): string {
  for (const [from, to] of Object.entries(idPrefixes)) if (text.startsWith(from)) return to + text.slice(from.length);
  return names[text] ?? text;
}

/** What workflows and activities exchange. */
function renamePayload(value: Json, renames: Renames): Json {
  if (Array.isArray(value)) return value.map((item) => renamePayload(item, renames));
  if (typeof value === 'string') return renameText(value, renames);
  if (!isObject(value)) return value;
  const fields = { ...renames.fields };
  for (const rule of renames.fieldsWhere) {
    const kindFits = rule.kind === undefined || (typeof value.kind === 'string' && rule.kind.includes(value.kind));
    if (kindFits && rule.where.every((field) => field in value)) Object.assign(fields, rule.fields);
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [fields[key] ?? key, renamePayload(item, renames)]));
}

function renameData(data: string, renames: Renames): string {
  const text = Buffer.from(data, 'base64').toString('utf8');
  let value: Json;
  try {
    value = JSON.parse(text);
  } catch (error) {
    // Some payloads are bytes or are empty.
    if (error instanceof SyntaxError) return data;
    throw error;
  }
  return Buffer.from(JSON.stringify(renamePayload(value, renames))).toString('base64');
}

const nameFields = new Set(['name', 'signalName', 'workflowId']);

function renameEvent(value: Json, renames: Renames, key = ''): Json {
  if (Array.isArray(value)) return value.map((item) => renameEvent(item, renames, key));
  if (typeof value === 'string') return nameFields.has(key) ? renameText(value, renames) : value;
  if (!isObject(value)) return value;
  if ('metadata' in value && typeof value.data === 'string') return { ...value, data: renameData(value.data, renames) };
  return Object.fromEntries(Object.entries(value).map(([field, item]) => [field, renameEvent(item, renames, field)]));
}

const [map, from, to] = process.argv.slice(2);
if (map === undefined || from === undefined || to === undefined) {
  console.error(
    'usage: infra/run test/replay/rename-histories.ts MAP.json FROM TO\nexample: infra/run test/replay/rename-histories.ts test/replay/renames/0.2.0.json old renamed',
  );
  process.exit(2);
}
const renames = Renames.parse(JSON.parse(await readFile(map, 'utf8')));
await mkdir(to, { recursive: true });
for (const file of (await readdir(from)).filter((name) => name.endsWith('.json'))) {
  const history = renameEvent(JSON.parse(await readFile(join(from, file), 'utf8')), renames);
  const [type = '', ...variant] = file.replace(/\.json$/, '').split('-');
  await writeFile(join(to, `${[renames.names[type] ?? type, ...variant].join('-')}.json`), `${JSON.stringify(history)}\n`);
}
