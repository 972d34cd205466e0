import { createHash, randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type FileBody, type Page, type RunningApi, startApi } from './running-api.ts';

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_MAX_FILE_BYTES: String(64 * 2 ** 20) });
});
afterAll(() => api.end());

const sha256 = (bytes: string | Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** A body that is sent in chunks, so that its length is not announced. */
function chunked(chunks: Uint8Array[]): RequestInit {
  return { body: ReadableStream.from(chunks) as ReadableStream<Uint8Array>, duplex: 'half' } as RequestInit;
}

async function onDisk(): Promise<string[]> {
  const all = await readdir(api.root, { recursive: true, withFileTypes: true });
  return all.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

describe('storing', () => {
  test('bytes are returned as they were sent, described by their digest', async () => {
    const bytes = randomBytes(3_000_000);
    const answer = await api.call<FileBody>(api.alice, 'POST', '/v1/files?name=noise.bin', { body: bytes });
    expect(answer.status).toBe(201);
    const file = answer.body;
    expect(file).toMatchObject({ name: 'noise.bin', sizeBytes: 3_000_000, sha256: sha256(bytes), owner: api.alice.ownerId });
    expect(answer.headers.get('location')).toBe(`/v1/files/${file.id}`);
    const content = await api.fetch(api.alice, 'GET', `/v1/files/${file.id}/content`);
    expect(Buffer.from(await content.arrayBuffer()).equals(bytes)).toBe(true);
    expect(content.headers.get('etag')).toBe(`"${file.sha256}"`);
    expect(content.headers.get('repr-digest')).toBe(`sha-256=:${Buffer.from(file.sha256, 'hex').toString('base64')}:`);
    expect((await api.call(api.alice, 'GET', `/v1/files/${file.id}`)).body).toEqual(file);
  });

  test('an empty file is a file', async () => {
    const file = await api.put(api.alice, 'empty', '');
    expect(file).toMatchObject({ sizeBytes: 0, sha256: sha256('') });
    const content = await api.fetch(api.alice, 'GET', `/v1/files/${file.id}/content`);
    expect([content.status, await content.text()]).toEqual([200, '']);
  });

  test('bytes without an announced length are stored, and reserve no more than their size', async () => {
    const chunks = Array.from({ length: 40 }, () => randomBytes(500_000));
    const before = await api.ledger.owner.findUniqueOrThrow({ where: { id: api.alice.ownerId } });
    const answer = await api.call<FileBody>(api.alice, 'POST', '/v1/files?name=stream', chunked(chunks));
    expect(answer.body).toMatchObject({ sizeBytes: 20_000_000, sha256: sha256(Buffer.concat(chunks)) });
    const after = await api.ledger.owner.findUniqueOrThrow({ where: { id: api.alice.ownerId } });
    expect(after.usedBytes - before.usedBytes).toBe(20_000_000n);
  });

  test('many uploads at once do not mix', async () => {
    const bodies = Array.from({ length: 12 }, (_, i) => Buffer.alloc(400_000 + i, i));
    const files = await Promise.all(bodies.map((body, i) => api.put(api.alice, `part-${i}`, body)));
    expect(files.map((file) => file.sha256)).toEqual(bodies.map(sha256));
  });

  test.each([
    ['?sha256=', (hex: string) => ({ query: `&sha256=${hex}`, headers: {} })],
    [
      'Repr-Digest',
      (hex: string) => ({ query: '', headers: { 'Repr-Digest': `sha-256=:${Buffer.from(hex, 'hex').toString('base64')}:` } }),
    ],
    [
      'Content-Digest',
      (hex: string) => ({ query: '', headers: { 'Content-Digest': `sha-256=:${Buffer.from(hex, 'hex').toString('base64')}:` } }),
    ],
  ])('%s has the bytes checked, and nothing is kept that differs', async (_name, announce) => {
    const right = announce(sha256('abc'));
    const stored = await api.call(api.alice, 'POST', `/v1/files?name=abc${right.query}`, { body: 'abc', headers: right.headers });
    expect(stored.status).toBe(201);
    const before = await onDisk();
    const wrong = announce(sha256('abd'));
    const refused = await api.call(api.alice, 'POST', `/v1/files?name=abc${wrong.query}`, {
      body: 'abc',
      headers: wrong.headers,
    });
    expect([refused.status, refused.body.code]).toEqual([422, 'digest-mismatch']);
    expect(await onDisk()).toEqual(before);
  });

  test.each([
    ['no name', '/v1/files', {}, 400, 'query.name'],
    ['an empty name', '/v1/files?name=', {}, 400, 'query.name'],
    ['a name with a newline', '/v1/files?name=a%0Ab', {}, 400, 'query.name'],
    ['a name with NUL', '/v1/files?name=a%00b', {}, 400, 'query.name'],
    ['a name that is too long', `/v1/files?name=${'x'.repeat(513)}`, {}, 400, 'query.name'],
    ['two names', '/v1/files?name=a&name=b', {}, 400, 'query.name'],
    ['an unknown parameter', '/v1/files?name=a&mode=0644', {}, 400, 'query.mode'],
    ['a digest that is none', '/v1/files?name=a&sha256=xyz', {}, 400, 'query.sha256'],
    ['a digest header that is none', '/v1/files?name=a', { 'Repr-Digest': 'sha-256=xyz' }, 400, 'header.Repr-Digest'],
    ['a multipart form', '/v1/files?name=a', { 'Content-Type': 'multipart/form-data; boundary=x' }, 415, undefined],
    ['an encoded body', '/v1/files?name=a', { 'Content-Encoding': 'gzip' }, 415, undefined],
  ])('%s is refused', async (_name, path, headers, status, pointer) => {
    const before = await onDisk();
    const { status: found, body } = await api.call(api.alice, 'POST', path, { body: 'abc', headers });
    expect([found, body.errors[0]?.pointer]).toEqual([status, pointer]);
    expect(await onDisk()).toEqual(before);
  });

  test('a file above the maximum size is refused, announced or not, and leaves nothing', async () => {
    const before = await onDisk();
    const huge = Buffer.alloc(65 * 2 ** 20);
    const announced = await api.call(api.alice, 'POST', '/v1/files?name=huge', { body: huge });
    expect([announced.status, announced.body.code]).toEqual([413, 'too-large']);
    const streamed = await api.call(
      api.alice,
      'POST',
      '/v1/files?name=huge',
      chunked(Array.from({ length: 66 }, () => Buffer.alloc(2 ** 20))),
    );
    expect([streamed.status, streamed.body.code]).toEqual([413, 'too-large']);
    expect(await onDisk()).toEqual(before);
    expect(await api.ledger.file.count({ where: { state: 'uploading' } })).toBe(0);
  });

  test('a refusal is sent before the body is requested', async () => {
    const answer = await new Promise<{ status: number; continued: boolean }>((resolve, reject) => {
      let continued = false;
      const headers = { expect: '100-continue', 'content-length': 2 ** 40, authorization: `Bearer ${api.alice.key}` };
      const upload = request(new URL('/v1/files?name=huge', api.base), { method: 'POST', headers });
      upload.on('continue', () => {
        continued = true;
      });
      upload.on('response', (response) => {
        resolve({ status: response.statusCode ?? 0, continued });
        upload.destroy();
      });
      upload.on('error', reject);
      upload.flushHeaders();
    });
    expect(answer).toEqual({ status: 413, continued: false });
  });

  test('an upload that its sender abandons leaves neither bytes nor a row nor a reservation', async () => {
    const before = await onDisk();
    const used = await api.ledger.owner.findUniqueOrThrow({ where: { id: api.alice.ownerId } });
    const headers = { 'content-length': 30_000_000, authorization: `Bearer ${api.alice.key}` };
    const upload = request(new URL('/v1/files?name=half', api.base), { method: 'POST', headers });
    upload.on('error', () => undefined);
    upload.write(Buffer.alloc(10_000_000));
    await vi.waitFor(async () => expect(await onDisk()).toHaveLength(before.length + 1), { timeout: 60_000 });
    upload.destroy();
    await vi.waitFor(
      async () => {
        expect(await onDisk()).toEqual(before);
        expect(await api.ledger.file.count({ where: { state: 'uploading' } })).toBe(0);
      },
      { timeout: 60_000 },
    );
    const after = await api.ledger.owner.findUniqueOrThrow({ where: { id: api.alice.ownerId } });
    expect(after.usedBytes).toBe(used.usedBytes);
  });

  test('a file is invisible until it is complete', async () => {
    const headers = { 'content-length': 1_000, authorization: `Bearer ${api.alice.key}` };
    const upload = request(new URL('/v1/files?name=slow', api.base), { method: 'POST', headers });
    const ended = new Promise<number | undefined>((resolve) =>
      upload.on('response', (response) => resolve(response.resume().statusCode)),
    );
    upload.write(Buffer.alloc(999));
    const row = await vi.waitFor(() => api.ledger.file.findFirstOrThrow({ where: { name: 'slow' } }), { timeout: 60_000 });
    expect(row.state).toBe('uploading');
    for (const path of [`/v1/files/${row.id}`, `/v1/files/${row.id}/content`]) {
      expect((await api.call(api.alice, 'GET', path)).status).toBe(404);
    }
    expect((await api.call(api.alice, 'DELETE', `/v1/files/${row.id}`)).status).toBe(404);
    const listed = await api.call<Page<FileBody>>(api.alice, 'GET', '/v1/files?limit=200');
    expect(listed.body.items.map(({ id }) => id)).not.toContain(row.id);
    upload.end(Buffer.alloc(1));
    expect(await ended).toBe(201);
    expect((await api.call(api.alice, 'GET', `/v1/files/${row.id}`)).status).toBe(200);
  });
});

describe('downloading', () => {
  const text = 'The quick brown fox jumps over the lazy dog';
  let file: FileBody;
  let content: string;
  beforeAll(async () => {
    file = await api.put(api.alice, 'fox/naïve "name".txt', text);
    content = `/v1/files/${file.id}/content`;
  });
  const get = (headers: Record<string, string>, method = 'GET') => api.fetch(api.alice, method, content, { headers });

  test.each([
    ['bytes=0-8', 206, 'The quick', 'bytes 0-8/43'],
    ['bytes=40-', 206, 'dog', 'bytes 40-42/43'],
    ['bytes=-3', 206, 'dog', 'bytes 40-42/43'],
    ['bytes=40-999', 206, 'dog', 'bytes 40-42/43'],
    ['lines=1-2', 200, text, null],
  ])('Range: %s', async (range, status, body, contentRange) => {
    const answer = await get({ Range: range });
    expect([answer.status, await answer.text(), answer.headers.get('content-range')]).toEqual([status, body, contentRange]);
  });

  test('a range outside of the file is a 416 with the length of the file', async () => {
    const answer = await get({ Range: 'bytes=43-' });
    expect([answer.status, answer.headers.get('content-range')]).toEqual([416, 'bytes */43']);
    expect(await answer.json()).toMatchObject({ code: 'range-not-satisfiable' });
    expect(answer.headers.get('etag')).toBeNull();
  });

  test('If-Range returns the range only of identical bytes', async () => {
    const same = await get({ Range: 'bytes=0-2', 'If-Range': `"${file.sha256}"` });
    expect([same.status, await same.text()]).toEqual([206, 'The']);
    const other = await get({ Range: 'bytes=0-2', 'If-Range': '"other"' });
    expect([other.status, await other.text()]).toEqual([200, text]);
  });

  test('If-None-Match saves the bytes, If-Match refuses others', async () => {
    const known = await get({ 'If-None-Match': `"${file.sha256}"`, 'Cache-Control': 'max-age=0' });
    expect([known.status, await known.text()]).toEqual([304, '']);
    const other = await get({ 'If-Match': '"other"' });
    expect([other.status, await other.json()]).toMatchObject([412, { code: 'precondition-failed' }]);
  });

  test('HEAD answers as GET does, without the bytes', async () => {
    const head = await get({}, 'HEAD');
    expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, '43', '']);
  });

  test('a file’s name has no effect in a browser', async () => {
    const answer = await get({});
    expect(answer.headers.get('content-type')).toBe('application/octet-stream');
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
    expect(answer.headers.get('content-disposition')).toMatch(/^attachment; /);
  });

  test('a deletion does not interrupt a download in progress', async () => {
    const bytes = randomBytes(32 * 2 ** 20);
    const large = await api.put(api.alice, 'large', bytes);
    const path = new URL(`/v1/files/${large.id}/content`, api.base);
    const answer = await fetch(path, { headers: { authorization: `Bearer ${api.alice.key}` } });
    const reader = answer.body!.getReader();
    const parts: Uint8Array[] = [];
    const first = await reader.read();
    parts.push(first.value!);
    expect((await api.fetch(api.alice, 'DELETE', `/v1/files/${large.id}`)).status).toBe(204);
    for (let next = await reader.read(); !next.done; next = await reader.read()) parts.push(next.value);
    expect(sha256(Buffer.concat(parts))).toBe(large.sha256);
    expect((await api.call(api.alice, 'GET', `/v1/files/${large.id}/content`)).status).toBe(404);
  });
});

describe('listing', () => {
  test('pages contain everything once, newest first, also while files are added', async () => {
    const lister = await api.addOwner('lister', 'client');
    const names = Array.from({ length: 7 }, (_, i) => `f${i}`);
    for (const name of names) await api.put(lister, name, name);
    const seen: string[] = [];
    let cursor: string | null = '';
    for (let pages = 0; cursor !== null && pages < 10; pages += 1) {
      const query: string = cursor === '' ? '' : `&cursor=${cursor}`;
      const answer = await api.call<Page<FileBody>>(lister, 'GET', `/v1/files?limit=3${query}`);
      expect(answer.body.items.length).toBeLessThanOrEqual(3);
      seen.push(...answer.body.items.map(({ name }) => name));
      cursor = answer.body.next;
      if (pages === 0) await api.put(lister, 'later', 'later');
    }
    expect(seen).toEqual(names.toReversed());
  });

  test('files of the same millisecond are neither skipped nor shown twice', async () => {
    const twin = await api.addOwner('twin', 'client');
    for (let i = 0; i < 5; i += 1) await api.put(twin, `t${i}`, 'x');
    await api.ledger.file.updateMany({ where: { ownerId: twin.ownerId }, data: { createdAt: new Date(0) } });
    const seen: string[] = [];
    for (let next: string | null = ''; next !== null; ) {
      const page: Page<FileBody> = (await api.call<Page<FileBody>>(twin, 'GET', `/v1/files?limit=2${next && `&cursor=${next}`}`))
        .body;
      seen.push(...page.items.map(({ name }) => name));
      next = page.next;
    }
    expect(seen.toSorted()).toEqual(['t0', 't1', 't2', 't3', 't4']);
  });

  test.each(['limit=0', 'limit=201', 'limit=x', 'limit=1.5', 'limit=', 'cursor=abc', 'cursor=W10', 'offset=3'])(
    '%s is refused',
    async (query) => {
      const { status, body } = await api.call(api.alice, 'GET', `/v1/files?${query}`);
      expect([status, body.code, body.errors[0]?.pointer]).toEqual([400, 'bad-request', `query.${query.split('=')[0]}`]);
    },
  );

  test("another list's cursor is refused", async () => {
    await api.put(api.alice, 'one', '1');
    await api.put(api.alice, 'two', '2');
    const { next } = (await api.call<Page<FileBody>>(api.alice, 'GET', '/v1/files?limit=1')).body;
    expect((await api.call(api.alice, 'GET', `/v1/tasks?cursor=${next}`)).body.errors[0]?.pointer).toBe('query.cursor');
  });
});
