import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { z } from 'zod';
import type { NewWebhook, Webhook } from '../../api/schemas/webhooks.ts';
import { newWebhookSecret, webhookKeyOf } from '../../model/webhooks/signature.ts';
import { type Page, type ProblemBody, type RunningApi, startApi } from './running-api.ts';

type WebhookBody = z.output<typeof Webhook> & ProblemBody;
type NewBody = z.output<typeof NewWebhook> & ProblemBody;

let api: RunningApi;
const url = 'https://example.net/hook';
beforeAll(async () => {
  api = await startApi({ BERTH_MAX_WEBHOOKS_PER_OWNER: '12' });
});
afterAll(() => api.end());

const add = (json: object = { url }, party = api.alice, headers: Record<string, string> = {}) =>
  api.call<NewBody>(party, 'POST', '/v1/webhooks', { json, headers });
const pointers = ({ body }: { body: ProblemBody }) => body.errors.map(({ pointer }) => pointer);

describe('adding a webhook', () => {
  test('shows its secret once, and no answer after that has it', async () => {
    const headers = { 'Idempotency-Key': 'once' };
    const first = await add({ url, types: ['berth.task.*'] }, api.alice, headers);
    expect(first.status).toBe(201);
    expect(webhookKeyOf(first.body.secret!)).toHaveLength(32);
    expect(api.workflows.requested.webhooks).toContain(first.body.id);
    const again = await add({ url, types: ['berth.task.*'] }, api.alice, headers);
    expect(again.body).toEqual({ ...first.body, secret: null });
    expect((await add({ url }, api.alice, headers)).body.code).toBe('idempotency-mismatch');
    const shown = await api.call<WebhookBody>(api.alice, 'GET', `/v1/webhooks/${first.body.id}`);
    expect(shown.body).toMatchObject({ url, types: ['berth.task.*'], scope: 'owner', state: 'active', failures: 0 });
    // Neither the log, nor what is remembered of the request, nor any row has it.
    const base64 = first.body.secret!.slice('whsec_'.length);
    const rows = await api.ledger.$queryRaw<object[]>`
      SELECT to_jsonb(i) FROM "Idempotency" i UNION ALL SELECT to_jsonb(w) FROM "Webhook" w
      UNION ALL SELECT to_jsonb(s) || jsonb_build_object('text', encode(sealed, 'base64')) FROM "WebhookSecret" s
      UNION ALL SELECT to_jsonb(e) FROM "Event" e`;
    for (const text of [JSON.stringify(rows), api.logged.join('\n'), shown.text]) expect(text).not.toContain(base64);
    // The path and the query of a URL may be a secret of the receiver's.
    expect(api.logged.join('\n')).not.toContain(url);
  });

  test("takes a secret of the caller's, and refuses what is none", async () => {
    const secret = newWebhookSecret();
    expect((await add({ url, secret })).body.secret).toBe(secret);
    for (const wrong of ['x', 'whsec_', `whsec_${'A'.repeat(20)}`, `${secret}\n`])
      expect(pointers(await add({ url, secret: wrong }))).toEqual(['/secret']);
  });

  test('refuses URLs that lead elsewhere than to a public receiver', async () => {
    for (const wrong of [
      'ftp://example.net',
      'https://a:b@example.net',
      'https://example.net/\r\nx: y',
      'x',
      'https://example.net#a',
    ])
      expect([wrong, pointers(await add({ url: wrong }))]).toEqual([wrong, ['/url']]);
    for (const internal of [
      'http://127.0.0.1/',
      'http://[::1]:5432/',
      'http://169.254.169.254/latest',
      'http://2130706433/',
      'http://0x7f000001/',
      'http://10.1',
      'http://[::ffff:10.0.0.1]/',
    ])
      expect([internal, (await add({ url: internal })).body.code]).toEqual([internal, 'address-refused']);
    const { body } = await add();
    const change = await api.call(api.alice, 'PATCH', `/v1/webhooks/${body.id}`, { json: { url: 'http://127.0.0.1/' } });
    expect(change.body.code).toBe('address-refused');
  });

  test('refuses filters that are no types, or too many', async () => {
    expect(pointers(await add({ url, types: ['task.*'] }))).toEqual(['/types/0']);
    expect(pointers(await add({ url, types: ['berth.*.x'] }))).toEqual(['/types/0']);
    expect(pointers(await add({ url, types: Array(33).fill('berth.task.*') }))).toEqual(['/types']);
    expect((await add({ url, types: Array(50_000).fill('berth.x') })).status).toBe(413);
  });

  test('begins with the events from now on, or after a cursor', async () => {
    await api.addImage('debian-12');
    await api.call(api.alice, 'POST', '/v1/tasks', { json: { image: 'debian-12', command: ['true'] } });
    const { next } = (await api.call<{ next: string }>(api.alice, 'GET', '/v1/events')).body;
    expect((await add()).body.cursor).toBe(next);
    expect((await add({ url, after: '0' })).body.cursor).toBe('0');
    expect(pointers(await add({ url, after: '999' }))).toEqual(['/after']);
    expect(pointers(await add({ url, after: '-1' }))).toEqual(['/after']);
  });

  test("of every owner's events is for operators", async () => {
    expect((await add({ url, scope: 'site' })).body.code).toBe('forbidden');
    expect((await add({ url, scope: 'site' }, api.operator)).body.scope).toBe('site');
  });

  test('is refused beyond the quota, and where the site has no key for its secret', async () => {
    const added = await Promise.all(Array.from({ length: 14 }, () => add({ url }, api.bob)));
    expect(added.filter(({ status }) => status === 201)).toHaveLength(12);
    expect(added.find(({ status }) => status !== 201)!.body).toMatchObject({ code: 'quota-exceeded', quota: 'webhooks' });
    const keyless = await startApi({ BERTH_WEBHOOK_KEYS: ' ' }).catch((error: Error) => error);
    // The configuration refuses what is no key, so that no secret is stored in the clear.
    expect(keyless).toBeInstanceOf(Error);
  });
});

test('a webhook is seen, changed and removed by its owner and by operators', async () => {
  const { id } = (await add({ url, description: 'mine' })).body;
  const of = `/v1/webhooks/${id}`;
  const calls: [string, string, object?][] = [
    ['GET', of],
    ['PATCH', of, {}],
    ['DELETE', of],
    ['GET', `${of}/deliveries`],
    ['POST', `${of}/test`],
    ['POST', `${of}/replay`, { after: '0' }],
    ['POST', `${of}/secrets`, {}],
    ['DELETE', `${of}/secrets/secret_x`],
  ];
  for (const [method, path, json] of calls)
    expect([path, (await api.call(api.bob, method, path, json && { json })).status]).toEqual([path, 404]);
  expect((await api.call<Page<WebhookBody>>(api.bob, 'GET', '/v1/webhooks')).body.items.map((one) => one.id)).not.toContain(id);
  expect((await api.call<Page<WebhookBody>>(api.operator, 'GET', '/v1/webhooks')).body.items.map((one) => one.id)).toContain(id);
  const change = (json: object) => api.call<WebhookBody>(api.operator, 'PATCH', of, { json });
  expect((await change({ types: ['berth.vm.*'], description: '' })).body).toMatchObject({
    types: ['berth.vm.*'],
    description: '',
    url,
  });
  expect((await change({ state: 'disabled' })).body).toMatchObject({ state: 'disabled', disabledReason: 'owner' });
  for (const path of ['test', 'replay'])
    expect((await api.call(api.alice, 'POST', `${of}/${path}`, path === 'test' ? {} : { json: { after: '0' } })).status).toBe(
      409,
    );
  expect((await change({ state: 'active' })).body).toMatchObject({ state: 'active', disabledReason: null });
  expect((await api.call(api.alice, 'DELETE', of)).status).toBe(204);
  expect((await api.call(api.alice, 'GET', of)).status).toBe(404);
});

test('secrets are added, shown once, and removed but for the last', async () => {
  const { id, secrets } = (await add()).body;
  const of = `/v1/webhooks/${id}/secrets`;
  const headers = { 'Idempotency-Key': 'rotation' };
  const made = await api.call<{ id: string; secret: string }>(api.alice, 'POST', of, { json: { keepOthersS: 60 }, headers });
  expect(webhookKeyOf(made.body.secret)).not.toBeNull();
  const again = await api.call<{ secret: null }>(api.alice, 'POST', of, { json: { keepOthersS: 60 }, headers });
  expect(again.body).toEqual({ ...made.body, secret: null });
  const [newest, older] = (await api.call<WebhookBody>(api.alice, 'GET', `/v1/webhooks/${id}`)).body.secrets;
  expect([newest!.id, newest!.expiresAt, older!.id]).toEqual([made.body.id, null, secrets[0]!.id]);
  expect(Date.parse(older!.expiresAt!) - Date.now()).toBeLessThanOrEqual(60_000);
  expect((await api.call(api.alice, 'DELETE', `${of}/${made.body.id}`)).status).toBe(409);
  expect((await api.call(api.alice, 'DELETE', `${of}/${older!.id}`)).status).toBe(204);
});

test('what Temporal does not hear of is found by the control workers', async () => {
  api.workflows.requested.away = true;
  try {
    const { status, body } = await add();
    expect(status).toBe(201);
    const { dueAt } = await api.ledger.webhook.findUniqueOrThrow({ where: { id: body.id } });
    expect(dueAt!.getTime()).toBeLessThanOrEqual(Date.now());
  } finally {
    api.workflows.requested.away = false;
  }
});
