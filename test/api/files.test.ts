import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RunningApi, startApi } from './running-api.ts';

let api: RunningApi;
beforeAll(async () => {
  api = await startApi(process.env.DATABASE_URL!);
});
afterAll(() => api.end());

const sha256 = (text: string | Buffer) => createHash('sha256').update(text).digest('hex');

test('bytes come back as they were sent', async () => {
  const r = await api.call(api.alice, 'POST', '/v1/files?name=words.txt', { body: 'hello world' });
  expect(r.status).toBe(201);
  const file = await r.json();
  expect(file).toMatchObject({ name: 'words.txt', sizeBytes: 11, sha256: sha256('hello world'), owner: api.alice.ownerId });
  expect(r.headers.get('location')).toBe(`/v1/files/${file.id}`);
  const c = await api.call(api.alice, 'GET', `/v1/files/${file.id}/content`);
  expect(await c.text()).toBe('hello world');
  console.log([...c.headers]);
});
