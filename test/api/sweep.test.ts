import { access, mkdir, rm, utimes, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openQuarantine } from '../../api/files/quarantine.ts';
import { openRepository } from '../../api/files/repository.ts';
import { readSiteMark, writeSiteMark } from '../../api/files/site-mark.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { removeImageFiles } from '../../ledger/images/retirement.ts';
import type { LedgerDeps } from '../../ledger/transaction.ts';
import { newId } from '../../model/ids.ts';
import { openLog } from '../../model/log.ts';
import { type Sweep, sweepRepository } from '../../workers/sweep/repository-sweep.ts';
import { type FreshDatabase, startPostgres } from '../services/postgres.ts';
import { collect, type FileBody, type RunningApi, startApi } from './running-api.ts';

let api: RunningApi;
let databases: FreshDatabase[] = [];
let ledgers: Ledger[] = [];
beforeEach(async () => {
  api = await startApi();
});
afterEach(async () => {
  for (const ledger of ledgers) await ledger.$disconnect();
  for (const database of databases) await database.stop();
  [ledgers, databases] = [[], []];
  await api.end();
});

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const hoursAgo = (hours: number) => new Date(Date.now() - hours * hourMs);

const sweep = (ledger: Ledger = api.ledger, afterMs = 0): Promise<Sweep> =>
  sweepRepository({
    ledger,
    repository: api.repository,
    log: openLog('test', 'error'),
    clock: () => Date.now() + afterMs,
    logRetentionDays: 2,
    quarantineDays: 7,
    maxShare: 0.1,
  });
const held = (hold: string) => ({ hold });

/** A ledger without a row, as after a DATABASE_URL that leads elsewhere. */
async function emptyLedger(): Promise<Ledger> {
  const database = await startPostgres();
  databases.push(database);
  const ledger = openLedger(database.url);
  ledgers.push(ledger);
  // The tests' databases are copies of one template; a migration gives each ledger an id of its own.
  await ledger.site.update({ where: { row: 1 }, data: { id: newId('owner') } });
  return ledger;
}

const bytesOf = (file: FileBody) => api.repository.bytes.path(file.id, file.sha256);
const age = async (path: string) => utimes(path, hoursAgo(2), hoursAgo(2));

/** Files of a client, old enough to be swept. */
async function oldFiles(count: number): Promise<FileBody[]> {
  const files: FileBody[] = [];
  for (let i = 0; i < count; i += 1) {
    const file = await api.put(api.alice, `f${i}`, `content ${i} of ${Math.random()}`);
    await age(bytesOf(file));
    files.push(file);
  }
  return files;
}

/** Bytes that a crash left without a row. */
async function orphan(): Promise<string> {
  const like = await api.put(api.alice, 'like', 'x');
  const path = join(dirname(bytesOf(like)), `${newId('file')}-${'1'.repeat(64)}`);
  await writeFile(path, 'x');
  await age(path);
  return path;
}

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );
async function expectAllThere(files: FileBody[]): Promise<void> {
  for (const file of files) expect([file.id, await exists(bytesOf(file))]).toEqual([file.id, true]);
}
const show = async () => (await api.call<Record<string, unknown>>(api.operator, 'GET', '/v1/repository')).body;
const change = (json: object, party = api.operator) => api.call(party, 'PATCH', '/v1/repository', { json });

describe('a sweep by an API whose ledger is the wrong one takes nothing out', () => {
  test('an empty one, of a new site', async () => {
    const files = await oldFiles(3);
    expect(await sweep()).toMatchObject({ hold: null });
    const other = await emptyLedger();
    expect(await sweep(other)).toEqual(held('other-site'));
    expect(await sweep(other)).toEqual(held('other-site'));
    await expectAllThere(files);
  });

  test('an empty one, at a repository that no version with site ids has swept', async () => {
    const files = await oldFiles(1);
    expect(await sweep(await emptyLedger())).toEqual(held('ledger-empty'));
    await expectAllThere(files);
    expect(await readSiteMark(api.root)).toBeNull();
    // The right one adopts it.
    expect(await sweep()).toMatchObject({ hold: null });
    expect(await readSiteMark(api.root)).toMatchObject({ mark: 1 });
  });

  test('one of the right site whose files are gone', async () => {
    const files = await oldFiles(12);
    await sweep();
    await api.ledger.file.deleteMany();
    await api.ledger.fileRemoval.deleteMany();
    expect(await sweep()).toEqual(held('ledger-empty'));
    await expectAllThere(files);
  });

  test('an older one, restored into the same database', async () => {
    await sweep();
    const backup = await api.ledger.site.findUniqueOrThrow({ where: { row: 1 } });
    const files = await oldFiles(3);
    await sweep();
    await api.ledger.file.deleteMany();
    await api.ledger.fileRemoval.deleteMany();
    await api.ledger.site.update({ where: { row: 1 }, data: { mark: backup.mark } });
    expect(await sweep()).toEqual(held('ledger-older'));
    await expectAllThere(files);
  });

  test('a copy of it in another database', async () => {
    const files = await oldFiles(3);
    await sweep();
    await api.ledger.site.update({ where: { row: 1 }, data: { database: '7000000000000000000:1:16384' } });
    expect(await sweep()).toEqual(held('ledger-restored'));
    await expectAllThere(files);
  });

  test('a site file that cannot be read stops the sweep as well', async () => {
    const files = await oldFiles(1);
    await writeFile(join(api.root, 'site.json'), '{');
    await expect(sweep()).rejects.toThrow();
    await expectAllThere(files);
  });

  test('until an operator accepts that, and nothing else', async () => {
    await oldFiles(3);
    await sweep();
    await api.ledger.site.update({ where: { row: 1 }, data: { id: 'another', mark: 0 } });
    expect(await sweep()).toEqual(held('other-site'));
    expect(await show()).toMatchObject({ sweeps: 'off', hold: { reason: 'other-site' } });
    const metrics = await (await fetch(`${api.operatorsBase}/metrics`)).text();
    expect(metrics).toContain('berth_repository_sweep_held{reason="other-site"} 1');
    expect((await change({ sweeps: 'on' })).body.code).toBe('conflict');
    expect((await change({ sweeps: 'on', accept: 'ledger-older' })).body.code).toBe('conflict');
    expect((await change({ sweeps: 'on', accept: 'other-site' }, api.alice)).body.code).toBe('forbidden');
    expect(await sweep()).toEqual(held('other-site'));
    expect((await change({ sweeps: 'on', accept: 'other-site' })).status).toBe(200);
    expect(await sweep()).toMatchObject({ hold: null });
    expect(await readSiteMark(api.root)).toMatchObject({ site: 'another' });
    expect(await show()).toMatchObject({ site: 'another', sweeps: 'on', hold: null });
    // The former ledger does not get it back by itself.
    await api.ledger.site.update({ where: { row: 1 }, data: { id: 'former', mark: 99 } });
    expect(await sweep()).toEqual(held('other-site'));
  });

  test('an operator turns sweeps off and on', async () => {
    const path = await orphan();
    expect((await change({ sweeps: 'off' })).body).toMatchObject({ sweeps: 'off', hold: { reason: 'operator' } });
    expect(await sweep()).toEqual(held('operator'));
    expect(await exists(path)).toBe(true);
    await change({ sweeps: 'on' });
    expect(await sweep()).toMatchObject({ bytes: 1 });
  });
});

describe('a share of the repository above the limit', () => {
  test('stops the sweep, says how much it is, and is taken out once an operator has accepted it', async () => {
    const files = await oldFiles(40);
    const lost = files.slice(0, 11);
    await api.ledger.file.deleteMany({ where: { id: { in: lost.map(({ id }) => id) } } });
    await api.ledger.fileRemoval.deleteMany();
    expect(await sweep()).toEqual(held('share'));
    await expectAllThere(files);
    expect(await show()).toMatchObject({ hold: { reason: 'share', kept: 40, orphans: 11 } });
    await change({ sweeps: 'on', accept: 'share' });
    expect(await sweep()).toMatchObject({ bytes: 11 });
    await expectAllThere(files.slice(11));
    // What was accepted is used up.
    await api.ledger.file.deleteMany({ where: { id: { in: files.slice(11, 23).map(({ id }) => id) } } });
    await api.ledger.fileRemoval.deleteMany();
    expect(await sweep()).toEqual(held('share'));
  });

  test('counts logs of tasks that the ledger does not know', async () => {
    await oldFiles(5);
    async function* line() {
      yield Buffer.from('a line\n');
    }
    const tasks = Array.from({ length: 11 }, () => newId('task'));
    for (const task of tasks) await api.repository.logs.append(task, 0, 0, line());
    expect(await sweep()).toEqual(held('share'));
    expect((await collect(api.repository.logs.tasks())).sort()).toEqual(tasks.sort());
  });

  test('is not made of what the ledger itself has given up: deleted files, a retired image, a replaced output', async () => {
    const files = await oldFiles(30);
    const parts = { disk: { file: files[0]!.id }, kernel: { file: files[1]!.id }, initrd: { file: files[2]!.id } };
    const image = await api.addImage('old', api.alice);
    await api.ledger.image.update({ where: { id: image }, data: { parts } });
    await api.ledger.image.update({ where: { id: image }, data: { state: 'retired' } });
    await removeImageFiles({ ledger: api.ledger, clock: Date.now } as LedgerDeps, image as never);
    const gone = files.slice(0, 20);
    await api.ledger.file.deleteMany({ where: { id: { in: gone.map(({ id }) => id) } } });
    expect(await sweep()).toMatchObject({ hold: null, removedBytes: 20, bytes: 0 });
    await expectAllThere(files.slice(20));
    for (const file of gone) expect(await exists(bytesOf(file))).toBe(false);
  });
});

describe('quarantine', () => {
  test('keeps what a sweep took out for days, and then removes it', async () => {
    await oldFiles(1);
    const path = await orphan();
    expect(await sweep()).toMatchObject({ bytes: 1 });
    expect(await exists(path)).toBe(false);
    const [entry] = await collect(api.repository.quarantine.list());
    expect(entry?.name).toBe(basename(path));
    expect(await sweep(api.ledger, 7 * dayMs)).toMatchObject({ removed: 0 });
    expect(await exists(entry!.path)).toBe(true);
    expect(await sweep(api.ledger, 8 * dayMs)).toMatchObject({ removed: 1 });
    expect(await exists(entry!.path)).toBe(false);
  });

  test('gives back what a row names again: the ledger that did not know it was the wrong one', async () => {
    const files = await oldFiles(4);
    const rows = await api.ledger.file.findMany({ where: { id: files[0]!.id } });
    await api.ledger.file.deleteMany({ where: { id: files[0]!.id } });
    await api.ledger.fileRemoval.deleteMany();
    expect(await sweep()).toMatchObject({ bytes: 1 });
    expect(await exists(bytesOf(files[0]!))).toBe(false);
    await api.ledger.file.createMany({ data: rows });
    expect(await sweep()).toMatchObject({ putBack: 1 });
    expect(await (await api.fetch(api.alice, 'GET', `/v1/files/${files[0]!.id}/content`)).text()).toContain('content 0');
  });

  test('never overwrites logs that are there again', async () => {
    const quarantine = openQuarantine(api.root);
    const task = newId('task');
    const write = async (text: string) => {
      async function* bytes() {
        yield Buffer.from(text);
      }
      await api.repository.logs.append(task, 0, 0, bytes());
    };
    await write('old');
    await quarantine.take(api.repository.logs.folder(task), Date.now());
    await write('new!');
    const [entry] = await collect(quarantine.list());
    expect(await quarantine.putBack(entry!)).toBe(false);
    expect(await api.repository.logs.size(task, 0)).toBe(4);
  });
});

describe('logs of builds', () => {
  test('are kept while the image is built and as long as those of tasks, then removed', async () => {
    await api.addImage('base-1');
    const parts = { disk: { file: 'd' }, kernel: { file: 'k' }, initrd: { file: 'i' } };
    await api.ledger.image.updateMany({ where: { name: 'base-1' }, data: { parts } });
    const json = { name: 'mine', base: { image: 'base-1' } };
    const { body } = await api.call<{ digest: string }>(api.alice, 'POST', '/v1/images', { json });
    const { id, buildVmId } = await api.ledger.image.findFirstOrThrow({ where: { digest: body.digest } });
    const append = await fetch(api.signed('PUT', `/internal/images/${id}/builds/${buildVmId}/log`), {
      method: 'PUT',
      headers: { 'content-range': 'bytes 0-6/*' },
      body: 'a line\n',
    });
    expect(append.status).toBe(200);
    const read = async () => (await api.fetch(api.alice, 'GET', `/v1/images/mine/log?digest=${body.digest}`)).text();
    expect(await sweep()).toMatchObject({ logs: 0, unknownLogs: 0 });
    expect(await read()).toBe('a line\n');
    await api.ledger.image.update({ where: { id }, data: { state: 'failed', finishedAt: hoursAgo(47) } });
    await api.ledger.vm.update({ where: { id: buildVmId! }, data: { state: 'removed' } });
    expect(await sweep()).toMatchObject({ logs: 0, unknownLogs: 0 });
    expect(await read()).toBe('a line\n');
    await api.ledger.image.update({ where: { id }, data: { finishedAt: hoursAgo(49) } });
    await api.ledger.vm.update({ where: { id: buildVmId! }, data: { createdAt: hoursAgo(50) } });
    expect(await sweep()).toMatchObject({ logs: 1, unknownLogs: 0 });
  });
});

describe("a retired image's files", () => {
  const retire = async (file: FileBody) => {
    const image = await api.addImage('old', api.alice);
    await api.ledger.image.update({ where: { id: image }, data: { parts: { disk: { file: file.id } } } });
    await api.ledger.image.update({ where: { id: image }, data: { state: 'retired' } });
    await removeImageFiles({ ledger: api.ledger, clock: Date.now } as LedgerDeps, image as never);
    return (await api.fetch(api.alice, 'GET', `/v1/files/${file.id}`)).status;
  };

  test('are deleted', async () => expect(await retire((await oldFiles(1))[0]!)).toBe(404));

  test.each([
    ['a task in the queue', (file: string) => ['/v1/tasks', { command: ['true'], inputs: [{ path: 'in', file }] }] as const],
    ['a VM that waits for a host', (file: string) => ['/v1/vms', { name: 'v', files: [{ path: '/srv/in', file }] }] as const],
  ])('are kept while %s names them', async (_who, request) => {
    const [file] = await oldFiles(1);
    await api.addImage('debian-12');
    const [path, json] = request(file!.id);
    expect((await api.call(api.alice, 'POST', path, { json: { image: 'debian-12', ...json } })).status).toBe(202);
    expect((await api.call(api.alice, 'DELETE', `/v1/files/${file!.id}`)).body.code).toBe('in-use');
    expect(await retire(file!)).toBe(200);
    await sweep();
    await expectAllThere([file!]);
  });
});

test('whatever is stored, deleted, lost, restored and swept: bytes that the newest ledger names are there at its return', async () => {
  const step = fc.constantFrom('put', 'put', 'delete', 'orphan', 'backup', 'restore', 'return', 'sweep', 'sweep', 'day');
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 14 }), async (steps) => {
      await api.ledger.file.deleteMany();
      await api.ledger.fileRemoval.deleteMany();
      await api.ledger.site.update({
        where: { row: 1 },
        data: { mark: 0, hold: null, heldAt: null, database: null, acceptedSite: null, acceptedMark: 0 },
      });
      for (const folder of ['files', 'quarantine', 'site.json'])
        await rm(join(api.root, folder), { recursive: true, force: true });
      await mkdir(join(api.root, 'files'));
      const read = async () => ({
        files: await api.ledger.file.findMany(),
        removals: await api.ledger.fileRemoval.findMany(),
        mark: (await api.ledger.site.findUniqueOrThrow({ where: { row: 1 } })).mark,
      });
      const write = async ({ files, removals, mark }: Awaited<ReturnType<typeof read>>) => {
        await api.ledger.file.deleteMany();
        await api.ledger.fileRemoval.deleteMany();
        await api.ledger.file.createMany({ data: files });
        await api.ledger.fileRemoval.createMany({ data: removals });
        await api.ledger.site.update({ where: { row: 1 }, data: { mark, hold: null, heldAt: null } });
      };
      let backup = await read();
      let newest: Awaited<ReturnType<typeof read>> | null = null;
      let [days, away] = [0, 0];
      const returns = async () => {
        if (newest !== null) await write(newest);
        [newest, away] = [null, 0];
      };
      for (const what of steps) {
        if (what === 'put' && newest === null) await oldFiles(1);
        if (what === 'delete' && newest === null) {
          const row = await api.ledger.file.findFirst({ orderBy: { id: 'asc' } });
          if (row !== null) await api.fetch(api.alice, 'DELETE', `/v1/files/${row.id}`);
        }
        if (what === 'orphan' && newest === null) await orphan();
        if (what === 'backup' && newest === null) backup = await read();
        if (what === 'restore' && newest === null) {
          newest = await read();
          await write(backup);
        }
        if (what === 'return') await returns();
        if (what === 'sweep') await sweep(api.ledger, days * dayMs);
        // It is noticed within the days of the quarantine.
        if (what === 'day' && (newest === null || away < 6)) {
          days += 1;
          away += newest === null ? 0 : 1;
        }
      }
      await returns();
      await sweep(api.ledger, days * dayMs);
      for (const row of await api.ledger.file.findMany())
        expect([row.name, await exists(api.repository.bytes.path(row.id, row.sha256!))]).toEqual([row.name, true]);
    }),
    { numRuns: 25 },
  );
});

test('two processes that sweep at once do the work of one', async () => {
  const files = await oldFiles(3);
  const path = await orphan();
  const second = await openRepository({ root: api.root, ledger: api.ledger, maxFileBytes: 1e9, quotaBytes: 1e9 });
  expect(second.root).toBe(api.root);
  const both = await Promise.all([sweep(), sweep()]);
  expect(both.map((one) => one.hold)).toEqual([null, null]);
  expect(both.reduce((sum, one) => sum + (one.hold === null ? one.bytes : 0), 0)).toBe(1);
  expect(await exists(path)).toBe(false);
  await expectAllThere(files);
  await writeSiteMark(api.root, (await readSiteMark(api.root))!);
});
