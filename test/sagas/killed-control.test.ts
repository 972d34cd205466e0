import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { type Service, startService } from '../services/child.ts';
import type { ControlOrder } from './control-process.ts';
import { expectEmptySite, expectEverythingOrNothing } from './everything-or-nothing.ts';
import { bundle, type FakeSite, openFakeSite } from './fake-site.ts';

/** After its effect is the harder moment: nobody has heard of it. */
const deaths = [
  ...[
    'reserveTask',
    'advanceTask stagingIn',
    'imageCached',
    'advanceTask starting',
    'advanceTask running',
    'advanceTask stagingOut',
    'finishTask',
  ].map((call) => ({ call, when: 'after' as const })),
  { call: 'finishTask', when: 'before' as const },
];

let site: FakeSite;
let folder: string;
let stopping = false;
const services = new Set<Service>();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-killed-'));
  site = await openFakeSite();
  await site.stopWorker('control');
});
afterAll(async () => {
  await site.stop();
  await rm(folder, { recursive: true, force: true });
});

/** What systemd does: a control worker that died is started again. */
async function supervise(order: ControlOrder): Promise<void> {
  while (!stopping) {
    const argv: [string, ...string[]] = [
      process.execPath,
      join(import.meta.dirname, 'control-process.ts'),
      JSON.stringify(order),
    ];
    const service = startService(argv, 'SIGTERM');
    services.add(service);
    await service.failed.catch(() => undefined);
    services.delete(service);
  }
}

test('a control worker that is killed in any step on the ledger costs no task its end', async () => {
  const ids = await Promise.all(deaths.map(() => site.accept()));
  const code = join(folder, 'workflows.js');
  await writeFile(code, (await bundle()).code);
  const order: ControlOrder = {
    address: site.address,
    namespace: site.namespace,
    databaseUrl: site.databaseUrl,
    bundle: code,
    folder,
    deaths: Object.fromEntries(ids.map((id, index) => [workflowId.task(id), deaths[index]!])),
  };
  // Two, as at a site: while one starts again, the other works.
  const supervising = [supervise(order), supervise(order)];
  const handles = await Promise.all(
    ids.map((id) =>
      site.client.workflow.start(workflowType.task, {
        taskQueue: controlQueue,
        workflowId: workflowId.task(id),
        args: [id, site.pace],
        workflowTaskTimeout: '2s',
      }),
    ),
  );
  const ends = await Promise.all(handles.map((handle) => handle.result()));
  stopping = true;
  await Promise.all([...services].map((service) => service.stop()));
  await Promise.all(supervising);
  expect(ends).toEqual(ids.map(() => 'succeeded'));
  for (const [index, id] of ids.entries()) {
    expect(existsSync(join(folder, workflowId.task(id))), `died ${deaths[index]!.when} ${deaths[index]!.call}`).toBe(true);
    await expectEverythingOrNothing(site, id);
  }
  await expectEmptySite(site);
}, 180_000);
