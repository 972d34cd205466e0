import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_MAX_HORIZON_DAYS: '366' });
  await api.addImage('debian-12');
  await api.addHost('host-a');
});
afterAll(() => api.end());

const task = { image: 'debian-12', command: ['true'] };
const pointers = (body: ProblemBody) => body.errors.map(({ pointer }) => pointer);

describe('a time beyond the horizon', () => {
  const late = '9999-12-31T23:59:59Z';
  const justLate = new Date(Date.now() + 367 * 86_400_000).toISOString();
  test.each([
    ['/v1/tasks', { ...task, lease: { kind: 'reservation', startAt: late, durationS: 60 } }, '/lease/startAt'],
    ['/v1/tasks', { ...task, lease: { kind: 'reservation', startAt: justLate, durationS: 60 } }, '/lease/startAt'],
    ['/v1/tasks', { ...task, lease: { deadline: late, durationS: 60 } }, '/lease/deadline'],
    [
      '/v1/vms',
      { name: 'a', image: 'debian-12', lease: { kind: 'reservation', startAt: late, durationS: 60 } },
      '/lease/startAt',
    ],
    ['/v1/quotes', { image: 'debian-12', lease: { kind: 'reservation', startAt: late, durationS: 60 } }, '/lease/startAt'],
    ['/v1/hosts/host-a/drains', { deadline: late }, '/deadline'],
    ['/v1/hosts/host-a/drains', { deadline: new Date(Date.now() + 3600_000).toISOString(), returnAfter: late }, '/returnAfter'],
    ['/v1/reservations', { nodes: 1, startAt: late, durationS: 60, purpose: 'test' }, '/startAt'],
  ])('is refused as the caller’s fault: POST %s %j', async (path, json, pointer) => {
    const { status, body } = await api.call(api.operator, 'POST', path, { json });
    expect([status, body.code, pointers(body)]).toEqual([400, 'bad-request', [pointer]]);
  });

  test('is refused in the interval of the schedule', async () => {
    const { status, body } = await api.call(api.alice, 'GET', `/v1/schedule?to=${late}`);
    expect([status, pointers(body)]).toEqual([400, ['query.to']]);
  });

  test('no host is closed by such a drain, and the last times within it are taken', async () => {
    expect(await api.ledger.drain.count()).toBe(0);
    const startAt = new Date(Date.now() + 365 * 86_400_000).toISOString();
    const json = { ...task, lease: { kind: 'reservation', startAt, durationS: 60 } };
    expect((await api.call(api.alice, 'POST', '/v1/tasks', { json })).status).toBe(202);
  });
});

describe('a lease and the time of its command', () => {
  test.each([
    [{ timeoutS: 300, lease: { durationS: 30 } }, 400],
    [{ timeoutS: 86_400 }, 202],
    [{ timeoutS: 300, lease: { durationS: 300 } }, 202],
  ])('%j is answered with %d', async (more, expected) => {
    const { status, body } = await api.call<TaskBody & ProblemBody>(api.alice, 'POST', '/v1/tasks', {
      json: { ...task, ...more },
    });
    expect(status).toBe(expected);
    if (status === 400) expect(pointers(body)).toEqual(['/lease/durationS']);
    else expect(body.lease.durationS).toBe(more.timeoutS);
  });
});

describe('an uploaded file that is no disk', () => {
  const tar = Buffer.alloc(10_240);
  tar.write('ustar', 257);
  const iso = Buffer.alloc(65_536);
  iso.write('\x01CD001\x01', 32_768);
  test.each([
    ['gzip', gzipSync(Buffer.alloc(100_000, 7)), /gzip/],
    ['tar', tar, /tar archive/],
    ['ISO', iso, /ISO image/],
    ['HTML', Buffer.from('<!DOCTYPE html>'.padEnd(512)), /web page/],
    ['zeroes', Buffer.alloc(2 ** 20), /empty/],
  ])('is refused before anything is built: %s', async (name, bytes, why) => {
    const { id } = await api.put(api.alice, name, bytes);
    const json = { name: `from-${name.toLowerCase()}`, base: { file: id } };
    const { status, body } = await api.call(api.alice, 'POST', '/v1/images', { json });
    expect([status, body.code, pointers(body)]).toEqual([422, 'image-refused', ['/base/file']]);
    expect(body.detail).toMatch(why);
    expect(await api.ledger.image.count({ where: { name: json.name } })).toBe(0);
  });

  test('is not described to whom it does not belong', async () => {
    const { id } = await api.put(api.alice, 'private', gzipSync('secret'));
    const { body } = await api.call(api.bob, 'POST', '/v1/images', { json: { name: 'theirs', base: { file: id } } });
    expect(body.code).toBe('file-unknown');
  });

  test('a disk that boots is taken', async () => {
    const disk = Buffer.alloc(2 ** 20, 7);
    disk.writeUInt16LE(0xaa55, 510);
    const { id } = await api.put(api.alice, 'disk', disk);
    expect((await api.call(api.alice, 'POST', '/v1/images', { json: { name: 'boots', base: { file: id } } })).status).toBe(202);
  });
});

describe('the same request under one Idempotency-Key', () => {
  const post = (key: string, path: string, json: unknown) =>
    api.call<TaskBody>(api.alice, 'POST', path, { json, headers: { 'Idempotency-Key': key } });

  test('is the same with its fields in another order, and with its defaults spelled out', async () => {
    const first = await post('order', '/v1/tasks', { ...task, env: { B: '1', A: '2' }, resources: { vcpus: 1, memoryMiB: 128 } });
    for (const json of [
      { resources: { memoryMiB: 128, vcpus: 1 }, env: { A: '2', B: '1' }, command: ['true'], image: 'debian-12' },
      {
        ...task,
        env: { A: '2', B: '1' },
        resources: { vcpus: 1, memoryMiB: 128, diskMiB: 512 },
        nodes: 1,
        name: 'task',
        timeoutS: 600,
        lease: { durationS: 600, kind: 'bestEffort' },
        inputs: [],
      },
    ]) {
      const again = await post('order', '/v1/tasks', json);
      expect([again.status, again.text]).toEqual([202, first.text]);
    }
  });

  test('is another one where a list is in another order', async () => {
    await post('list', '/v1/tasks', { ...task, command: ['echo', 'a', 'b'] });
    expect((await post('list', '/v1/tasks', { ...task, command: ['echo', 'b', 'a'] })).status).toBe(409);
  });

  test('holds for VMs as well', async () => {
    const first = await post('vm', '/v1/vms', { name: 'one', image: 'debian-12' });
    const again = await post('vm', '/v1/vms', { swapMiB: 0, image: 'debian-12', name: 'one', firstBoot: [], lease: {} });
    expect([again.status, again.text]).toEqual([202, first.text]);
  });
});

test("a URL's user and password are in no answer that refuses it", async () => {
  for (const url of ['ftp://ann:secret@example.com/x', `https://ann:secret@example.com/${'x'.repeat(2048)}`]) {
    const { status, text } = await api.call(api.alice, 'POST', '/v1/tasks', { json: { ...task, inputs: [{ path: 'x', url }] } });
    expect(status).toBe(400);
    expect(text).not.toMatch(/secret|ann:/);
  }
});

test('HEAD of a followed log is answered at once', async () => {
  const { body } = await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json: task });
  const began = performance.now();
  const answer = await api.fetch(api.alice, 'HEAD', `/v1/tasks/${body.id}/log?follow=1`, { signal: AbortSignal.timeout(5000) });
  expect([answer.status, await answer.text()]).toEqual([200, '']);
  // The connection takes the next request.
  expect((await api.call(api.alice, 'GET', `/v1/tasks/${body.id}`, { signal: AbortSignal.timeout(5000) })).status).toBe(200);
  expect(performance.now() - began).toBeLessThan(5000);
});
