import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { access, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sweepTrees } from '../../ledger/tree/expiry.ts';
import { type Answer, type FileBody, type Page, type Party, type RunningApi, startApi, type TaskBody } from './running-api.ts';

interface EntryBody {
  path: string;
  kind: 'file' | 'folder';
  file: string | null;
  sizeBytes: number | null;
  sha256: string | null;
  metadata: Record<string, string>;
  expiresAt: string | null;
  createdAt: string;
  modifiedAt: string;
  code: string;
}
interface DeletionBody {
  id: string;
  path: string;
  reason: string;
  entries: number;
  sizeBytes: number;
  code: string;
}

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_MAX_FILE_BYTES: String(64 * 2 ** 20) });
  await api.addImage('debian-12');
});
afterAll(() => api.end());

const dayMs = 24 * 3_600_000;
const sha256 = (bytes: string | Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const route = (path: string) => `/v1/tree/${path.split('/').map(encodeURIComponent).join('/')}`;
const put = (
  party: Party,
  path: string,
  body: string | Uint8Array = path,
  headers = {},
  query = '',
): Promise<Answer<EntryBody>> => api.call<EntryBody>(party, 'PUT', `${route(path)}${query}`, { body, headers });
const act = (party: Party, json: object): Promise<Answer<EntryBody>> => api.call<EntryBody>(party, 'POST', '/v1/tree', { json });
const remove = (party: Party, path: string, query = '') => api.call<DeletionBody>(party, 'DELETE', `${route(path)}${query}`);
const describeEntry = (party: Party, path: string) => api.call<EntryBody>(party, 'GET', `${route(path)}?describe=1`);
const read = async (party: Party, path: string) => {
  const answer = await api.fetch(party, 'GET', route(path));
  return answer.ok ? answer.text() : answer.status;
};
async function paths(party: Party, query: Record<string, string> = {}, limit = 200): Promise<string[]> {
  const found: string[] = [];
  for (let cursor: string | null = null; ; ) {
    const all: Record<string, string> = { ...query, limit: String(limit), ...(cursor !== null && { cursor }) };
    const { body, status, text } = await api.call<Page<EntryBody>>(party, 'GET', `/v1/tree?${new URLSearchParams(all)}`);
    if (status !== 200) throw new Error(text);
    found.push(...body.items.map(({ path }) => path));
    cursor = body.next;
    if (cursor === null) return found;
  }
}
const used = async ({ ownerId }: Party) => {
  const { usedBytes, usedEntries } = await api.ledger.owner.findUniqueOrThrow({ where: { id: ownerId } });
  return { bytes: Number(usedBytes), entries: usedEntries };
};
let owners = 0;
const newOwner = (limits = {}) => {
  owners += 1;
  return api.addOwner(`owner-${owners}`, 'client', limits);
};
const site = (afterMs = 0) => ({ maxEntries: 1000, trashDays: 7, nowMs: Date.now() + afterMs });
const sweep = async (afterMs = 0) => {
  const swept = await sweepTrees(api.ledger, site(afterMs));
  await api.repository.removeContents(swept.removed);
  return swept;
};
const isKept = (entry: EntryBody) =>
  access(api.repository.bytes.path(entry.file!, entry.sha256!)).then(
    () => true,
    () => false,
  );

describe('storing by a path', () => {
  test('bytes come back as they were sent, described by their digest, in folders that were made for them', async () => {
    const owner = await newOwner();
    const bytes = randomBytes(3_000_000);
    const answer = await put(owner, 'a/b/noise.bin', bytes);
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({ path: 'a/b/noise.bin', kind: 'file', sizeBytes: 3_000_000, sha256: sha256(bytes) });
    expect([answer.headers.get('location'), answer.headers.get('etag')]).toEqual([
      '/v1/tree/a/b/noise.bin',
      `"${sha256(bytes)}"`,
    ]);
    const content = await api.fetch(owner, 'GET', '/v1/tree/a/b/noise.bin');
    expect(Buffer.from(await content.arrayBuffer()).equals(bytes)).toBe(true);
    expect(content.headers.get('etag')).toBe(`"${sha256(bytes)}"`);
    expect((await describeEntry(owner, 'a/b')).body).toMatchObject({ kind: 'folder', file: null });
    expect((await api.call<FileBody>(owner, 'GET', `/v1/files/${answer.body.file}`)).body.sha256).toBe(sha256(bytes));
    expect(await used(owner)).toEqual({ bytes: 3_000_000, entries: 3 });
  });

  test('ranges and If-None-Match are answered as those of files', async () => {
    const owner = await newOwner();
    const { body } = await put(owner, 'fox', 'The quick brown fox');
    const range = await api.fetch(owner, 'GET', '/v1/tree/fox', { headers: { range: 'bytes=4-8' } });
    expect([range.status, await range.text()]).toEqual([206, 'quick']);
    const known = await api.fetch(owner, 'GET', '/v1/tree/fox', {
      headers: { 'if-none-match': `"${body.sha256}"`, 'cache-control': 'max-age=0' },
    });
    expect(known.status).toBe(304);
    expect((await api.fetch(owner, 'HEAD', '/v1/tree/fox')).headers.get('content-length')).toBe('19');
  });

  test('nothing lies in a file, and a folder is not replaced by one', async () => {
    const owner = await newOwner();
    await put(owner, 'a/b');
    expect([(await put(owner, 'a/b/c')).body.code, (await put(owner, 'a')).body.code]).toEqual(['conflict', 'conflict']);
    expect((await api.call(owner, 'GET', '/v1/tree/a')).body.code).toBe('conflict');
    expect(await paths(owner, { prefix: '' })).toEqual(['a', 'a/b']);
    expect(await used(owner)).toEqual({ bytes: 3, entries: 2 });
  });

  test('wrong digests, too many bytes and a used-up quota leave nothing', async () => {
    const owner = await newOwner({ maxBytes: 10n });
    expect((await put(owner, 'a', 'x', {}, `?sha256=${sha256('y')}`)).body.code).toBe('digest-mismatch');
    expect((await put(owner, 'a', 'x'.repeat(11))).body.code).toBe('quota-exceeded');
    expect((await put(owner, 'a', 'x'.repeat(10))).status).toBe(201);
    expect((await put(owner, 'b', 'x')).body.code).toBe('quota-exceeded');
    expect(await paths(owner, { prefix: '' })).toEqual(['a']);
    expect(await used(owner)).toEqual({ bytes: 10, entries: 1 });
  });

  test('the quota of entries holds for folders and the trash as well', async () => {
    const owner = await newOwner();
    const set = await api.call(api.operator, 'PATCH', `/v1/owners/${owner.ownerId}`, { json: { quotas: { entries: 4 } } });
    expect(set.status).toBe(200);
    expect((await put(owner, 'a/b/c')).status).toBe(201);
    expect((await put(owner, 'a/d/e')).body).toMatchObject({ code: 'quota-exceeded', quota: 'entries', limit: 4, wanted: 5 });
    expect((await act(owner, { action: 'copy', from: 'a', to: 'z' })).body.code).toBe('quota-exceeded');
    expect((await put(owner, 'a/d')).status).toBe(201);
    expect((await put(owner, 'a/d', 'other')).body.code).toBe('quota-exceeded');
    expect(await read(owner, 'a/d')).toBe('a/d');
    expect(await used(owner)).toEqual({ bytes: 8, entries: 4 });
  });
});

describe('conditions', () => {
  test('of two PUTs that may only create one does, and of two that replace the same bytes one does', async () => {
    const owner = await newOwner();
    const create = (text: string) => put(owner, 'once', text, { 'if-none-match': '*' });
    const made = await Promise.all(['a', 'b', 'c', 'd'].map(create));
    expect(made.map(({ status }) => status).toSorted()).toEqual([201, 412, 412, 412]);
    const first = made.find(({ status }) => status === 201)!.body;
    const change = (text: string) => put(owner, 'once', text, { 'if-match': `"${first.sha256}"` });
    const changed = await Promise.all(['e', 'f', 'g'].map(change));
    expect(changed.map(({ status }) => status).toSorted()).toEqual([200, 412, 412]);
    expect(await read(owner, 'once')).toMatch(/^[efg]$/);
  });

  test('are refused before the bytes are sent', async () => {
    const owner = await newOwner();
    await put(owner, 'there');
    const headers = {
      authorization: `Bearer ${owner.key}`,
      'if-none-match': '*',
      expect: '100-continue',
      'content-length': 1000,
    };
    const sent = request(new URL('/v1/tree/there', api.base), { method: 'PUT', headers });
    const answered = new Promise<string>((resolve, reject) => {
      sent.on('continue', () => resolve('continue'));
      sent.on('response', (res) => resolve(String(res.statusCode)));
      sent.on('error', reject);
      sent.flushHeaders();
    });
    expect(await answered).toBe('412');
    sent.destroy();
  });

  test('hold for DELETE and PATCH', async () => {
    const owner = await newOwner();
    const { body } = await put(owner, 'x');
    const other = { headers: { 'if-match': `"${sha256('other')}"` } };
    expect((await api.call(owner, 'DELETE', '/v1/tree/x', other)).body.code).toBe('precondition-failed');
    expect((await api.call(owner, 'PATCH', '/v1/tree/x', { ...other, json: { metadata: { a: 'b' } } })).body.code).toBe(
      'precondition-failed',
    );
    const same = { headers: { 'if-match': `W/"z", "${body.sha256}"` } };
    expect((await api.call(owner, 'DELETE', '/v1/tree/x', same)).status).toBe(200);
  });
});

describe('names', () => {
  const odd = [
    'a b',
    ' ',
    '.hidden',
    'é',
    'e\u0301',
    'É',
    '😀',
    'a\\x0ab',
    '\\xff\\x5c',
    '%2e%2e',
    '%00',
    '"quoted"',
    '\'; DROP TABLE "TreeEntry"; --',
    '%_*?[x]',
    '\u{10ffff}',
    '\ue000',
    'n'.repeat(255),
    '\\xff'.repeat(255),
    'a+b&c=d#e',
  ];

  test('are kept byte by byte, none for another, in lists, archives and moves', async () => {
    const owner = await newOwner();
    for (const name of odd) expect([name, (await put(owner, `odd/${name}`, name)).status]).toEqual([name, 201]);
    for (const name of odd) expect(await read(owner, `odd/${name}`)).toBe(name);
    const sorted = odd.map((name) => `odd/${name}`).toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    expect(await paths(owner, { folder: 'odd' }, 3)).toEqual(sorted);
    expect(await paths(owner, { prefix: 'odd/' }, 4)).toEqual(sorted);
    expect(await paths(owner, { prefix: 'odd/%' })).toEqual(['odd/%00', 'odd/%2e%2e', 'odd/%_*?[x]']);
    expect((await act(owner, { action: 'move', from: 'odd', to: '😀/moved' })).status).toBe(201);
    expect(await paths(owner, { folder: '😀/moved' })).toEqual(sorted.map((path) => path.replace(/^odd/, '😀/moved')));
    expect(await paths(owner, { prefix: 'odd' })).toEqual([]);
  });

  test.each(['a%5Cb', 'a//b', 'a/', '..%2fx', 'a/%2e%2e%2fb', 'a%0Ab', `${'n'.repeat(256)}`, 'a%5Cx41', '%E2%80%AEx'])(
    '%s is refused',
    async (path) => {
      // As it is: fetch would resolve dots.
      const status = await new Promise<number | undefined>((resolve, reject) => {
        const { hostname, port } = new URL(api.base);
        const headers = { authorization: `Bearer ${api.alice.key}` };
        request({ hostname, port, method: 'PUT', path: `/v1/tree/${path}`, headers }, (res) => resolve(res.statusCode))
          .on('error', reject)
          .end('x');
      });
      expect(status).toBe(400);
    },
  );

  test.each(['%ff', '%'])('%s is not validly encoded', async (path) => {
    const answer = await fetch(`${api.base}/v1/tree/${path}`, { headers: { authorization: `Bearer ${api.alice.key}` } });
    expect(answer.status).toBe(400);
  });
});

describe('listing', () => {
  test('has each entry once, in the order of bytes, also while entries are added', async () => {
    const owner = await newOwner();
    for (const path of ['b', 'a/2', 'a/1', 'a.b', 'a/1.x', 'c/d/e']) await put(owner, path);
    expect(await paths(owner, {}, 2)).toEqual(['a', 'a.b', 'b', 'c', 'tasks']);
    expect(await paths(owner, { folder: 'a' }, 1)).toEqual(['a/1', 'a/1.x', 'a/2']);
    expect(await paths(owner, { prefix: 'a' }, 2)).toEqual(['a', 'a.b', 'a/1', 'a/1.x', 'a/2']);
    expect(await paths(owner, { prefix: 'a/1' })).toEqual(['a/1', 'a/1.x']);
    const first = await api.call<Page<EntryBody>>(owner, 'GET', '/v1/tree?prefix=a&limit=2');
    await put(owner, 'a-new');
    const rest = await api.call<Page<EntryBody>>(owner, 'GET', `/v1/tree?prefix=a&cursor=${first.body.next}`);
    expect(rest.body.items.map(({ path }) => path)).toEqual(['a/1', 'a/1.x', 'a/2']);
  });

  test('of what is no folder is refused, and so are wrong cursors', async () => {
    const owner = await newOwner();
    await put(owner, 'a');
    expect((await api.call(owner, 'GET', '/v1/tree?folder=a')).body.code).toBe('conflict');
    expect((await api.call(owner, 'GET', '/v1/tree?folder=b')).status).toBe(404);
    for (const query of ['cursor=x', 'cursor=WyJmaWxlcyIsImEiXQ', 'limit=0', 'folder=a&prefix=a', 'folder=..'])
      expect([query, (await api.call(owner, 'GET', `/v1/tree?${query}`)).status]).toEqual([query, 400]);
  });
});

describe('copies and moves', () => {
  test('of a folder take all in it, and no bytes', async () => {
    const owner = await newOwner();
    await put(owner, 'a/b/c', 'content', {}, `?metadata=${encodeURIComponent('{"run":"17"}')}`);
    await put(owner, 'a/d', 'more');
    expect((await act(owner, { action: 'copy', from: 'a', to: 'x/y' })).body).toMatchObject({ path: 'x/y', kind: 'folder' });
    expect(await paths(owner, { prefix: '' })).toEqual(['a', 'a/b', 'a/b/c', 'a/d', 'x', 'x/y', 'x/y/b', 'x/y/b/c', 'x/y/d']);
    expect((await describeEntry(owner, 'x/y/b/c')).body.metadata).toEqual({ run: '17' });
    expect((await used(owner)).bytes).toBe(11);
    expect((await act(owner, { action: 'move', from: 'a', to: 'moved' })).status).toBe(201);
    expect(await paths(owner, { prefix: '' })).toEqual([
      'moved',
      'moved/b',
      'moved/b/c',
      'moved/d',
      'x',
      'x/y',
      'x/y/b',
      'x/y/b/c',
      'x/y/d',
    ]);
    expect(await read(owner, 'moved/b/c')).toBe('content');
  });

  test('are refused into themselves, over what is there, and where a path would be too long', async () => {
    const owner = await newOwner();
    await put(owner, 'a/b/c');
    await put(owner, 'z');
    const codes = async (...orders: object[]) => Promise.all(orders.map(async (order) => (await act(owner, order)).body.code));
    expect(
      await codes(
        { action: 'move', from: 'a', to: 'a' },
        { action: 'copy', from: 'a', to: 'a/b/d' },
        { action: 'copy', from: 'a/b', to: 'a' },
        { action: 'copy', from: 'a/b/c', to: 'z' },
        { action: 'copy', from: 'a', to: 'z', replace: true },
        { action: 'copy', from: 'none', to: 'y' },
        { action: 'move', from: 'a', to: 'z/in' },
        { action: 'move', from: 'a', to: 'tasks/x' },
        { action: 'move', from: 'a', to: `${`${'n'.repeat(255)}/`.repeat(7)}${'n'.repeat(254)}` },
        { action: 'folder', path: 'z' },
        { action: 'folder', path: 'tasks' },
        { action: 'link', file: 'file_none', to: 'y' },
      ),
    ).toEqual([
      ...Array.from({ length: 5 }, () => 'conflict'),
      'not-found',
      'conflict',
      'conflict',
      'bad-request',
      'conflict',
      'conflict',
      'not-found',
    ]);
    expect(await paths(owner, { prefix: '' })).toEqual(['a', 'a/b', 'a/b/c', 'z']);
  });

  test('with replace leave what was there in the trash', async () => {
    const owner = await newOwner();
    await put(owner, 'a', 'new');
    await put(owner, 'z', 'old');
    expect((await act(owner, { action: 'move', from: 'a', to: 'z', replace: true })).status).toBe(201);
    expect([await read(owner, 'z'), await read(owner, 'a')]).toEqual(['new', 404]);
    const { items } = (await api.call<Page<DeletionBody>>(owner, 'GET', '/v1/trash?path=z')).body;
    expect(items).toMatchObject([{ path: 'z', reason: 'replaced', entries: 1, sizeBytes: 3 }]);
  });

  test('a folder is made once, whatever is repeated, and an Idempotency-Key has one answer', async () => {
    const owner = await newOwner();
    expect((await act(owner, { action: 'folder', path: 'a/b' })).status).toBe(201);
    expect((await act(owner, { action: 'folder', path: 'a/b' })).status).toBe(201);
    await put(owner, 'f');
    const once = () =>
      api.call(owner, 'POST', '/v1/tree', {
        json: { action: 'move', from: 'f', to: 'g' },
        headers: { 'idempotency-key': 'move-1' },
      });
    const [first, second] = [await once(), await once()];
    expect([first.status, second.text]).toEqual([201, first.text]);
  });

  test('a file of /v1/files gets a path by a link, and stays when that is purged', async () => {
    const owner = await newOwner();
    const file = await api.put(owner, 'words', 'words');
    expect((await act(owner, { action: 'link', file: file.id, to: 'in/words' })).body).toMatchObject({ file: file.id });
    expect((await api.call(owner, 'DELETE', `/v1/files/${file.id}`)).body.code).toBe('in-use');
    expect((await remove(owner, 'in', '?recursive=1&purge=1')).status).toBe(204);
    expect((await api.call(owner, 'GET', `/v1/files/${file.id}`)).status).toBe(200);
    expect((await act(api.bob, { action: 'link', file: file.id, to: 'mine' })).status).toBe(404);
  });
});

describe('the trash', () => {
  test('gives back what was deleted, with all in it', async () => {
    const owner = await newOwner();
    await put(owner, 'a/b/c', 'content');
    await put(owner, 'a/d', 'more');
    const before = await paths(owner, { prefix: '' });
    expect((await remove(owner, 'a')).body.code).toBe('conflict');
    const deleted = await remove(owner, 'a', '?recursive=1');
    expect([deleted.status, deleted.body]).toMatchObject([200, { path: 'a', reason: 'deleted', entries: 4, sizeBytes: 11 }]);
    expect([await paths(owner, { prefix: '' }), await read(owner, 'a/b/c')]).toEqual([[], 404]);
    expect(await used(owner)).toEqual({ bytes: 11, entries: 4 });
    const restore = (json: object = {}) => api.call<EntryBody>(owner, 'POST', `/v1/trash/${deleted.body.id}/restore`, { json });
    await put(owner, 'a/new');
    expect((await restore()).body.code).toBe('conflict');
    expect((await restore({ to: 'back/a' })).status).toBe(201);
    expect(await paths(owner, { prefix: 'back/' })).toEqual(before.map((path) => `back/${path}`));
    expect(await read(owner, 'back/a/b/c')).toBe('content');
    expect((await restore()).status).toBe(404);
    expect(await used(owner)).toEqual({ bytes: 16, entries: 7 });
  });

  test('has the earlier versions of a path', async () => {
    const owner = await newOwner();
    for (const text of ['one', 'two', 'two', 'three']) await put(owner, 'v', text);
    const { items } = (await api.call<Page<DeletionBody>>(owner, 'GET', '/v1/trash?path=v')).body;
    expect(items.map(({ reason, sizeBytes }) => [reason, sizeBytes])).toEqual([
      ['replaced', 3],
      ['replaced', 3],
    ]);
    const restored = await api.call(owner, 'POST', `/v1/trash/${items[1]!.id}/restore`, { json: { replace: true } });
    expect([restored.status, await read(owner, 'v')]).toEqual([201, 'one']);
    expect((await used(owner)).bytes).toBe(11);
  });

  test('is purged by its owner, which frees its bytes at once, or when its days are over', async () => {
    const owner = await newOwner();
    const kept = (await put(owner, 'kept', 'kept')).body;
    const gone = (await put(owner, 'gone', 'gone!')).body;
    const late = (await put(owner, 'late', 'late..')).body;
    const { body } = await remove(owner, 'gone');
    expect((await api.call(api.bob, 'DELETE', `/v1/trash/${body.id}`)).status).toBe(404);
    expect((await api.call(owner, 'DELETE', `/v1/trash/${body.id}`)).status).toBe(204);
    expect(await used(owner)).toEqual({ bytes: 10, entries: 2 });
    await remove(owner, 'late');
    await sweep(6.9 * dayMs);
    expect(await Promise.all([kept, gone, late].map(isKept))).toEqual([true, false, true]);
    await sweep(7.1 * dayMs);
    expect(await Promise.all([kept, gone, late].map(isKept))).toEqual([true, false, false]);
    expect(await used(owner)).toEqual({ bytes: 4, entries: 1 });
    expect(await read(owner, 'kept')).toBe('kept');
  });

  test('keeps what another path names, and what a task needs until it is over', async () => {
    const owner = await newOwner();
    const shared = (await put(owner, 'shared', 'shared')).body;
    await act(owner, { action: 'copy', from: 'shared', to: 'copy' });
    await remove(owner, 'shared', '?purge=1');
    expect([await read(owner, 'copy'), await isKept(shared)]).toEqual(['shared', true]);
    const needed = (await put(owner, 'needed', 'needed')).body;
    const json = { image: 'debian-12', command: ['true'], inputs: [{ path: 'in', file: needed.file }] };
    const task = (await api.call<TaskBody>(owner, 'POST', '/v1/tasks', { json })).body;
    await remove(owner, 'needed', '?purge=1');
    await sweep();
    expect([await read(owner, 'needed'), await isKept(needed)]).toEqual([404, true]);
    await api.advance(task.id, 'cancelled');
    await sweep();
    expect(await isKept(needed)).toBe(false);
    expect((await used(owner)).bytes).toBe(6);
  });
});

describe('metadata and expiry', () => {
  test('are set with the bytes, and changed key by key', async () => {
    const owner = await newOwner();
    const query = new URLSearchParams({ metadata: '{"a":"1","b":"2"}', expiresAt: '2030-01-01T00:00:00Z' });
    expect((await put(owner, 'x', 'x', {}, `?${query}`)).body).toMatchObject({
      metadata: { a: '1', b: '2' },
      expiresAt: '2030-01-01T00:00:00.000Z',
    });
    const patched = await api.call<EntryBody>(owner, 'PATCH', '/v1/tree/x', {
      json: { metadata: { a: null, c: '3' }, expiresAt: null },
    });
    expect(patched.body).toMatchObject({ metadata: { b: '2', c: '3' }, expiresAt: null });
    for (const metadata of [
      '{',
      '[]',
      '{"A":"x"}',
      '{"a":1}',
      JSON.stringify({ a: '\u0000' }),
      JSON.stringify({ a: 'x'.repeat(1025) }),
    ])
      expect([metadata, (await put(owner, 'x', 'x', {}, `?${new URLSearchParams({ metadata })}`)).status]).toEqual([
        metadata,
        400,
      ]);
    const many = Object.fromEntries(Array.from({ length: 31 }, (_, i) => [`k${i}`, 'v']));
    expect((await api.call(owner, 'PATCH', '/v1/tree/x', { json: { metadata: many } })).status).toBe(400);
  });

  test('files expire at their time, or by the rule with the longest prefix, and can be restored', async () => {
    const owner = await newOwner();
    const rule = (prefix: string, days: number) =>
      api.call(owner, 'POST', '/v1/expiry-rules', { json: { prefix, afterS: days * 86_400 } });
    for (const [prefix, days] of [
      ['tmp/', 2],
      ['tmp/long/', 9],
      ['tmp', 4],
    ] as const)
      expect((await rule(prefix, days)).status).toBe(201);
    for (const path of ['tmp/a', 'tmp/long/b', 'tmpfile', 'other']) await put(owner, path);
    await put(owner, 'soon', 'soon', {}, `?expiresAt=${new Date(Date.now() + dayMs).toISOString()}`);
    await sweep(0.9 * dayMs);
    expect(await paths(owner, { prefix: '' })).toEqual(['other', 'soon', 'tmp', 'tmp/a', 'tmp/long', 'tmp/long/b', 'tmpfile']);
    await sweep(1.1 * dayMs);
    expect(await paths(owner, { prefix: 'soon' })).toEqual([]);
    await sweep(2.1 * dayMs);
    expect(await paths(owner, { prefix: 'tmp' })).toEqual(['tmp', 'tmp/long', 'tmp/long/b', 'tmpfile']);
    await sweep(4.1 * dayMs);
    expect(await paths(owner, { prefix: 'tmp' })).toEqual(['tmp', 'tmp/long', 'tmp/long/b']);
    const { items } = (await api.call<Page<DeletionBody>>(owner, 'GET', '/v1/trash')).body;
    expect(items.map(({ path, reason }) => [path, reason]).toSorted()).toEqual([
      ['soon', 'expired'],
      ['tmp/a', 'expired'],
      ['tmpfile', 'expired'],
    ]);
    for (const { id } of items) expect((await api.call(owner, 'POST', `/v1/trash/${id}/restore`, { json: {} })).status).toBe(201);
    await sweep();
    expect(await read(owner, 'soon')).toBe('soon');
    const rules = (await api.call<Page<{ id: string; prefix: string }>>(owner, 'GET', '/v1/expiry-rules')).body.items;
    expect(rules.map(({ prefix }) => prefix)).toEqual(['tmp', 'tmp/long/', 'tmp/']);
    expect((await api.call(api.bob, 'DELETE', `/v1/expiry-rules/${rules[0]!.id}`)).status).toBe(404);
    expect((await api.call(owner, 'DELETE', `/v1/expiry-rules/${rules[0]!.id}`)).status).toBe(204);
  });
});

/** A task that has ended with outputs, as its workflow would have left it. */
async function endedTask(party: Party, outputs: Record<string, string>, node = 0): Promise<string> {
  const { body } = await api.call<TaskBody>(party, 'POST', '/v1/tasks', { json: { image: 'debian-12', command: ['true'] } });
  for (const [path, text] of Object.entries(outputs)) {
    const url = api.signed('POST', `/internal/tasks/${body.id}/outputs/${node}`);
    const stored = await fetch(`${url}&${new URLSearchParams({ path })}`, { method: 'POST', body: text });
    if (stored.status !== 201) throw new Error(await stored.text());
  }
  return body.id;
}

describe('outputs of tasks', () => {
  const outputs = { 'out/a': 'a', 'out/sub/b': 'bb', 'out/😀': 'smile', 'out/\\xff': 'odd', log: 'log' };

  test('are folders of the tree when the task has ended, and not before', async () => {
    const owner = await newOwner();
    expect(await paths(owner, { folder: 'tasks' })).toEqual([]);
    const task = await endedTask(owner, outputs);
    expect([await paths(owner, { folder: 'tasks' }), await read(owner, `tasks/${task}/0/log`)]).toEqual([[], 404]);
    expect((await act(owner, { action: 'copy', from: `tasks/${task}`, to: 'early' })).status).toBe(404);
    await api.advance(task, 'cancelled');
    const other = await endedTask(owner, { x: 'x' });
    await api.advance(other, 'cancelled');
    expect(await paths(owner, { folder: 'tasks' }, 1)).toEqual([task, other].toSorted().map((id) => `tasks/${id}`));
    expect(await paths(owner, { folder: `tasks/${task}` })).toEqual([`tasks/${task}/0`]);
    expect(await paths(owner, { folder: `tasks/${task}/0` }, 1)).toEqual([`tasks/${task}/0/log`, `tasks/${task}/0/out`]);
    expect(await paths(owner, { folder: `tasks/${task}/0/out` }, 1)).toEqual(
      ['\\xff', 'a', 'sub', '😀'].map((name) => `tasks/${task}/0/out/${name}`),
    );
    expect(await paths(owner, { prefix: `tasks/${task}/0/out/s` })).toEqual([`tasks/${task}/0/out/sub/b`]);
    expect(await read(owner, `tasks/${task}/0/out/😀`)).toBe('smile');
    expect(await paths(api.bob, { folder: 'tasks' })).toEqual([]);
    expect(await read(api.bob, `tasks/${task}/0/log`)).toBe(404);
  });

  test('are only read: nothing is put, moved or deleted there', async () => {
    const owner = await newOwner();
    const task = await endedTask(owner, outputs);
    await api.advance(task, 'cancelled');
    const at = `tasks/${task}/0/log`;
    const answers = [
      await put(owner, at),
      await remove(owner, at),
      await act(owner, { action: 'move', from: at, to: 'x' }),
      await put(owner, 'tasks'),
    ];
    expect(answers.map(({ body }) => body.code)).toEqual(Array.from(answers, () => 'conflict'));
  });

  test('are copied into the tree, where the file cannot be deleted any more', async () => {
    const owner = await newOwner();
    const task = await endedTask(owner, outputs);
    await api.advance(task, 'cancelled');
    expect((await act(owner, { action: 'copy', from: `tasks/${task}/0/out`, to: 'kept/run' })).status).toBe(201);
    expect(await paths(owner, { prefix: 'kept/' })).toEqual(
      ['', '/\\xff', '/a', '/sub', '/sub/b', '/😀'].map((rest) => `kept/run${rest}`),
    );
    const { body } = await describeEntry(owner, 'kept/run/a');
    expect((await api.call(owner, 'DELETE', `/v1/files/${body.file}`)).body.code).toBe('in-use');
    expect((await act(owner, { action: 'copy', from: `tasks/${task}/0/log`, to: 'one' })).body.kind).toBe('file');
  });

  test('come as one tar', async () => {
    const owner = await newOwner();
    const task = await endedTask(owner, outputs);
    await api.advance(task, 'cancelled');
    const answer = await api.fetch(owner, 'GET', `/v1/tree/tasks/${task}?archive=tar`);
    expect(answer.headers.get('content-type')).toBe('application/x-tar');
    expect(await untarred(Buffer.from(await answer.arrayBuffer()))).toEqual(
      Object.fromEntries(Object.entries(outputs).map(([path, text]) => [`${task}/0/${path}`, text])),
    );
  });
});

/** What the machine's own tar finds in an archive: its files, by name. */
async function untarred(archive: Buffer): Promise<Record<string, string>> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-tar-'));
  try {
    await writeFile(join(folder, 'a.tar'), archive);
    execFileSync('tar', ['xf', join(folder, 'a.tar'), '-C', folder], { env: { ...process.env, LC_ALL: 'C.UTF-8' } });
    await rm(join(folder, 'a.tar'));
    const files = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
    const read = files.map(async (entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(folder.length + 1), await readFile(path, 'utf8')] as const;
    });
    return Object.fromEntries(await Promise.all(read));
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('an archive has long names, names of bytes, empty folders and more than a page of files', { timeout: 300_000 }, async () => {
  const owner = await newOwner();
  await put(owner, 'seed', 'seed');
  const names = [
    'a\\x0ab',
    '\\x5c',
    'é',
    'n'.repeat(255),
    `deep/${'d'.repeat(200)}/${'e'.repeat(200)}`,
    ...Array.from({ length: 600 }, (_, i) => `many/${i}`),
  ];
  for (const name of names) await act(owner, { action: 'copy', from: 'seed', to: `top/${name}` });
  await act(owner, { action: 'folder', path: 'top/empty' });
  const archive = Buffer.from(await (await api.fetch(owner, 'GET', '/v1/tree/top?archive=tar')).arrayBuffer());
  const found = await untarred(archive);
  const expected = names.map((name) => `top/${name.replace('\\x0a', '\n').replace('\\x5c', '\\')}`);
  expect(Object.keys(found).toSorted()).toEqual(expected.toSorted());
  expect(new Set(Object.values(found))).toEqual(new Set(['seed']));
  expect(execFileSync('tar', ['t'], { input: archive, encoding: 'utf8' })).toContain('top/empty/');
});

test('whatever many clients do to one tree at once, it stays a tree, and its counts are right', {
  timeout: 300_000,
}, async () => {
  const owner = await newOwner();
  const pick = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)]!;
  const path = () => Array.from({ length: 1 + Math.floor(Math.random() * 3) }, () => pick(['a', 'b', 'c'])).join('/');
  const one = async (): Promise<number> => {
    const what = pick(['put', 'put', 'put', 'copy', 'move', 'delete', 'purge', 'folder']);
    if (what === 'put') return (await put(owner, path(), String(Math.random()))).status;
    if (what === 'delete') return (await remove(owner, path(), '?recursive=1')).status;
    if (what === 'purge') return (await remove(owner, path(), '?recursive=1&purge=1')).status;
    if (what === 'folder') return (await act(owner, { action: 'folder', path: path() })).status;
    return (await act(owner, { action: what, from: path(), to: path(), replace: true })).status;
  };
  const worker = async () => {
    const statuses: number[] = [];
    for (let i = 0; i < 25; i += 1) statuses.push(await one());
    return statuses;
  };
  const statuses = new Set((await Promise.all(Array.from({ length: 8 }, worker))).flat());
  expect([...statuses].filter((status) => ![200, 201, 204, 404, 409].includes(status))).toEqual([]);
  const rows = await api.ledger.treeEntry.findMany({ where: { ownerId: owner.ownerId } });
  const byPath = new Map(rows.map((row) => [row.path, row]));
  for (const row of rows) {
    const parent = row.path.includes('/') ? row.path.slice(0, row.path.lastIndexOf('/')) : null;
    expect(row.parent).toBe(parent);
    if (parent !== null) expect(byPath.get(parent)?.fileId).toBeNull();
  }
  const trash = await api.ledger.trashEntry.count({ where: { ownerId: owner.ownerId } });
  const [sum] = await api.ledger.$queryRaw<{ bytes: bigint; unnamed: bigint }[]>`
    SELECT COALESCE(sum("sizeBytes"), 0)::bigint AS bytes, count(*) FILTER (WHERE NOT EXISTS (SELECT FROM "TreeEntry" e WHERE e."fileId" = f.id)
      AND NOT EXISTS (SELECT FROM "TrashEntry" e WHERE e."fileId" = f.id)) AS unnamed
    FROM "File" f WHERE "ownerId" = ${owner.ownerId}`;
  expect(await used(owner)).toEqual({ bytes: Number(sum!.bytes), entries: rows.length + trash });
  expect(Number(sum!.unnamed)).toBe(0);
});
