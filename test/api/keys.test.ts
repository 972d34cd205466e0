import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { createApp } from '../../api/app.ts';
import { close, serve } from '../../api/serve.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { readConfig } from '../../model/config.ts';
import { type Page, type Party, type RunningApi, startApi, type TaskBody } from './running-api.ts';

interface KeyBody {
  id: string;
  owner: string;
  role: string;
  key: string | null;
  expiresAt: string | null;
  revokedAt: string | null;
  code: string;
}

let api: RunningApi;
/** A second API process: a pool, a cache of keys and open requests of its own. */
let other: { base: string; ledger: Ledger; server: Server };
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  const ledger = openLedger(api.databaseUrl);
  const config = readConfig(['api', 'signing', 'webhooks'], {
    BERTH_REPOSITORY: api.root,
    BERTH_SIGNING_KEY: 'x'.repeat(32),
    BERTH_REPOSITORY_URL: 'http://127.0.0.1',
  });
  const { repository, workflows } = api;
  const log = pino({ level: 'silent' });
  const { app } = createApp({ ledger, repository, config, temporal: workflows.port, log, clock: Date.now });
  const server = await serve(app, { port: 0, host: '127.0.0.1' });
  other = { base: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, ledger, server };
});
afterAll(async () => {
  await close(other.server, 1000);
  await other.ledger.$disconnect();
  await api.end();
});

const make = (party: Party, json: object = {}, headers: Record<string, string> = {}) =>
  api.call<KeyBody>(party, 'POST', '/v1/keys', { json, headers });
const revoke = (party: Party, id: string) => api.call<KeyBody>(party, 'DELETE', `/v1/keys/${id}`);
const withKey = (party: Party, key: string): Party => ({ ...party, key });

describe('a key', () => {
  test('is shown once, and works at once', async () => {
    const headers = { 'Idempotency-Key': 'once' };
    const { status, body } = await make(api.alice, { name: 'laptop' }, headers);
    expect([status, body.role, body.owner]).toEqual([201, 'client', api.alice.ownerId]);
    expect((await api.call(withKey(api.alice, body.key!), 'GET', '/v1/me')).status).toBe(200);
    const again = await make(api.alice, { name: 'laptop' }, headers);
    expect(again.body).toEqual({ ...body, key: null });
    const listed = await api.call<Page<KeyBody>>(api.alice, 'GET', '/v1/keys');
    expect(listed.text).not.toContain(body.key);
    const kept = await api.ledger.idempotency.findMany({ where: { key: 'once' } });
    expect(JSON.stringify(kept)).not.toContain(body.key);
    expect(api.logged.join('')).not.toContain(body.key);
  });

  test('of another owner is neither seen nor revoked nor made by a client', async () => {
    const { body } = await make(api.alice);
    expect((await revoke(api.bob, body.id)).status).toBe(404);
    const listed = await api.call<Page<KeyBody>>(api.bob, 'GET', `/v1/keys?owner=${api.alice.ownerId}`);
    expect(listed.body.items.every(({ owner }) => owner === api.bob.ownerId)).toBe(true);
    expect((await make(api.bob, { owner: api.alice.ownerId })).body.code).toBe('forbidden');
    expect((await make(api.bob, { role: 'operator' })).body.code).toBe('forbidden');
    expect((await make(api.operator, { owner: 'owner_none' })).status).toBe(404);
  });

  test('has its end: refused from then on, and refused when it would have ended before', async () => {
    const expiresAt = new Date(Date.now() + 60_000).toISOString();
    const { body } = await make(api.alice, { expiresAt });
    const party = withKey(api.alice, body.key!);
    expect((await api.call(party, 'GET', '/v1/me')).status).toBe(200);
    api.clock.offsetMs = 60_001;
    expect((await api.call(party, 'GET', '/v1/me')).status).toBe(401);
    api.clock.offsetMs = 0;
    for (const wrong of ['2020-01-01T00:00:00Z', new Date(Date.now() - 1).toISOString()])
      expect((await make(api.alice, { expiresAt: wrong })).status).toBe(400);
  });

  test('of the last operator is not revoked: nobody could make another', async () => {
    const spare = await make(api.operator, { role: 'operator' });
    const ending = await make(api.operator, { role: 'operator', expiresAt: new Date(Date.now() + 60_000).toISOString() });
    expect((await revoke(api.operator, spare.body.id)).status).toBe(200);
    const last = await revoke(api.operator, api.operator.keyId);
    expect([last.status, last.body.code]).toEqual([409, 'conflict']);
    expect((await revoke(api.operator, ending.body.id)).status).toBe(200);
  });

  test('is one of fifty that an owner has at a time', async () => {
    const owner = await api.addOwner('many', 'client');
    const answers = await Promise.all(Array.from({ length: 60 }, () => make(owner)));
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(49);
    expect(answers.filter(({ body }) => body.code === 'quota-exceeded')).toHaveLength(11);
  });
});

describe('a revoked key', () => {
  test('is refused within two seconds by each API process, and what it has open ends', async () => {
    const task = await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json: { image: 'debian-12', command: ['true'] } });
    const { body } = await make(api.alice, { name: 'stolen' });
    const headers = { authorization: `Bearer ${body.key}` };
    const bases = [api.base, other.base];
    const ask = async (base: string) => (await fetch(new URL('/v1/me', base), { headers })).status;
    expect(await Promise.all(bases.map(ask))).toEqual([200, 200]);
    const streams = await Promise.all(
      bases.map(async (base) => {
        const answer = await fetch(new URL(`/v1/tasks/${task.body.id}/log?follow=1`, base), { headers });
        const state = { ended: null as number | null };
        answer
          .text()
          .catch(() => undefined)
          .then(() => {
            state.ended = performance.now();
          });
        return state;
      }),
    );
    // The follower of another key is not concerned.
    const kept = await api
      .fetch(api.alice, 'GET', `/v1/tasks/${task.body.id}/log?follow=1`)
      .then((answer) => answer.body!.getReader());
    expect((await revoke(api.alice, body.id)).status).toBe(200);
    const revokedAt = performance.now();
    const refusedAt = await Promise.all(
      bases.map(async (base) => {
        await vi.waitFor(async () => expect(await ask(base)).toBe(401), { timeout: 5000, interval: 20 });
        return performance.now();
      }),
    );
    await vi.waitFor(() => expect(streams.every(({ ended }) => ended !== null)).toBe(true), { timeout: 5000, interval: 20 });
    for (const at of [...refusedAt, ...streams.map(({ ended }) => ended!)]) expect(at - revokedAt).toBeLessThan(2000);
    const stays = await Promise.race([
      kept.read().then(() => 'ended'),
      new Promise((resolve) => setTimeout(resolve, 1000, 'open')),
    ]);
    expect(stays).toBe('open');
    await api.advance(task.body.id, 'cancelled');
  });
});

test('unknown keys from an address are refused unread after some, and known ones are not', async () => {
  const bounded = await startApi({ BERTH_UNKNOWN_KEYS_PER_MINUTE: '20' });
  try {
    expect((await bounded.call(bounded.alice, 'GET', '/v1/me')).status).toBe(200);
    const guesses = await Promise.all(
      Array.from({ length: 100 }, (_, i) => bounded.call(withKey(bounded.bob, `berth_${i}`), 'GET', '/v1/me')),
    );
    const count = (wanted: number) => guesses.filter(({ status }) => status === wanted).length;
    expect([count(401), count(429)]).toEqual([20, 80]);
    expect((await bounded.call(bounded.alice, 'GET', '/v1/me')).status).toBe(200);
  } finally {
    await bounded.end();
  }
});
