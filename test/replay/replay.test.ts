import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import proto from '@temporalio/proto';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import { beforeAll, expect, test } from 'vitest';
import * as workflows from '../../workflows/index.ts';
import { bundle } from '../sagas/fake-site.ts';

const folder = join(import.meta.dirname, 'histories');
const names = (await readdir(folder)).map((file) => file.replace(/\.json$/, ''));

beforeAll(() => {
  Runtime.install({ logger: new DefaultLogger('ERROR') });
});

// A workflow that runs at a site is continued from its history by the next version of its code: see record.ts.
test.each(names)('%s replays', async (name) => {
  const { workflowId, history } = JSON.parse(await readFile(join(folder, `${name}.json`), 'utf8'));
  await Worker.runReplayHistory(
    { workflowBundle: await bundle() },
    proto.temporal.api.history.v1.History.fromObject(history),
    workflowId,
  );
});

test('a task that succeeds upserts its search attributes three times', async () => {
  const { history } = JSON.parse(await readFile(join(folder, 'runTask-fewUpserts.json'), 'utf8'));
  const upserts = proto.temporal.api.history.v1.History.fromObject(history).events.filter(
    ({ upsertWorkflowSearchAttributesEventAttributes: one }) => one != null,
  );
  expect(upserts).toHaveLength(3);
});

test('every type of workflow has a history', () => {
  expect([...new Set(names.map((name) => name.split('-')[0]))].sort()).toEqual(Object.keys(workflows).sort());
});

test('the bundle contains workflows and the model, and nothing that uses a host, the network or the ledger', async () => {
  const { code } = await bundle();
  const map = code.slice(code.lastIndexOf('base64,') + 'base64,'.length);
  const { sources } = JSON.parse(Buffer.from(map, 'base64').toString('utf8')) as { sources: string[] };
  const root = fileURLToPath(new URL('../../', import.meta.url));
  const ours = sources.filter((source) => source.startsWith(root) && source.endsWith('.ts') && !source.includes('node_modules'));
  const folders = new Set(ours.map((source) => source.slice(root.length).split('/')[0]));
  expect([...folders].sort()).toEqual(['model', 'workflows']);
});
