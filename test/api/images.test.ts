import { createHash } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Image } from '../../api/schemas/images.ts';
import type { ImageState } from '../../model/states.ts';
import { type Page, type Party, type RunningApi, startApi } from './running-api.ts';

type ImageBody = z.output<typeof Image>;

let api: RunningApi;
let number = 0;
let name: string;
/** Two new owners for each test: one may have only a few builds at a time. */
let alice: Party;
let bob: Party;
beforeAll(async () => {
  api = await startApi();
  await api.addHost('host-a');
  await addBase('debian-12');
});
afterAll(() => api.end());
beforeEach(async () => {
  number += 1;
  alice = await api.addOwner(`alice-${number}`, 'client');
  bob = await api.addOwner(`bob-${number}`, 'client');
  name = `image-${number}`;
});

const part = (file: string) => ({ file, sha256: 'a'.repeat(64), sizeBytes: 1 });
const parts = { disk: part('d'), kernel: part('k'), initrd: part('i') };

async function addBase(of: string, owner: Party | null = null): Promise<string> {
  const id = await api.addImage(of, owner);
  await api.ledger.image.update({ where: { id }, data: { parts } });
  return id;
}

const recipeOf = (more: object = {}) => ({ name, base: { image: 'debian-12' }, ...more });
const post = (party: Party, json: object, headers = {}) => api.call<ImageBody>(party, 'POST', '/v1/images', { json, headers });
const refusal = async (party: Party, json: object) => {
  const { status, body } = await api.call(party, 'POST', '/v1/images', { json });
  return [status, body.code, body.errors.map(({ pointer }) => pointer)];
};

/** The state that its workflow would have set. */
async function end(id: string, state: ImageState): Promise<void> {
  const { buildVmId } = await api.ledger.image.findUniqueOrThrow({ where: { id } });
  const done = state === 'ready' ? { parts, sizeBytes: 3n } : { error: { code: 'build-failed', message: 'no' } };
  await api.ledger.image.update({ where: { id }, data: { state, ...done } });
  await api.ledger.vm.update({ where: { id: buildVmId! }, data: { state: 'removed' } });
}

async function make(party: Party, more: object = {}): Promise<ImageBody> {
  const { body } = await post(party, recipeOf(more));
  await end(body.id, 'ready');
  return body;
}

describe('a recipe', () => {
  test('is accepted with a VM that waits for a host, and its workflow is started', async () => {
    const { status, body, headers } = await post(alice, recipeOf({ packages: ['ffmpeg'], commands: ['true'] }));
    expect(status).toBe(202);
    expect(body).toMatchObject({ name, state: 'building', owner: alice.ownerId, published: false, sizeBytes: 0 });
    expect(headers.get('location')).toBe(`/v1/images/${name}?digest=${body.digest}`);
    expect(api.workflows.requested.builds).toContain(body.id);
    const vm = await api.ledger.vm.findUniqueOrThrow({ where: { id: body.buildVm! } });
    expect(vm).toMatchObject({ state: 'pending', ownerId: alice.ownerId });
  });

  test('that is equal to another has the same digest, and is not built twice', async () => {
    const first = await post(alice, recipeOf({ packages: ['b-two', 'a-one'], env: { X: '1', Y: '2' } }));
    const while_ = await post(alice, recipeOf({ packages: ['a-one', 'b-two', 'a-one'], env: { Y: '2', X: '1' } }));
    expect([while_.status, while_.body.id]).toEqual([202, first.body.id]);
    await end(first.body.id, 'ready');
    const after = await post(alice, recipeOf({ packages: ['a-one', 'b-two'], env: { X: '1', Y: '2' }, timeoutS: 60 }));
    expect([after.status, after.body.id, after.body.state]).toEqual([200, first.body.id, 'ready']);
    const other = await post(alice, recipeOf({ packages: ['a-one'] }));
    expect(other.body.digest).not.toBe(first.body.digest);
    expect(await api.ledger.image.count({ where: { name } })).toBe(2);
  });

  test('that failed is built again, in another VM', async () => {
    const { body } = await post(alice, recipeOf());
    await end(body.id, 'failed');
    const again = await post(alice, recipeOf());
    expect([again.status, again.body.id, again.body.state, again.body.error]).toEqual([202, body.id, 'building', null]);
    expect(again.body.buildVm).not.toBe(body.buildVm);
  });

  test('of many concurrent requests is built once', async () => {
    const answers = await Promise.all(Array.from({ length: 12 }, () => post(bob, recipeOf())));
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
    expect(await api.ledger.vm.count({ where: { ownerId: bob.ownerId, state: 'pending' } })).toBe(1);
    await end(answers[0]!.body.id, 'ready');
  });

  test('is refused where it is invalid, with the field that is wrong', async () => {
    const carol = await api.addOwner(`carol-${number}`, 'client');
    const { id } = await api.put(carol, 'disk', 'bytes that are no disk');
    expect(await refusal(carol, recipeOf({ base: { image: 'nothing-1' } }))).toEqual([422, 'image-unknown', ['/base']]);
    expect(await refusal(carol, recipeOf({ files: [{ path: '/etc/x', file: 'file_x' }] }))).toEqual([
      422,
      'file-unknown',
      ['/files/0/file'],
    ]);
    expect(await refusal(carol, recipeOf({ sizeMiB: 16 }))).toEqual([400, 'bad-request', ['/sizeMiB']]);
    for (const [wrong, pointer] of [
      [{ files: [{ path: '/etc/../x', file: id }] }, '/files/0/path'],
      [{ files: [{ path: 'etc/x', file: id }] }, '/files/0/path'],
      [{ files: [{ path: '/x', file: id, mode: '4755' }] }, '/files/0/mode'],
      [{ packages: ['ffmpeg; rm -rf /'] }, '/packages/0'],
      [{ packages: ['-o', 'x'] }, '/packages/0'],
      [{ commands: ['a\u0000b'] }, ''],
      [{ base: { file: id }, commands: ['true'] }, '/base'],
      [{ name: 'Capital' }, '/name'],
    ] as const) {
      const [status, code, pointers] = await refusal(carol, recipeOf(wrong));
      expect([JSON.stringify(wrong), status, code]).toEqual([JSON.stringify(wrong), 400, 'bad-request']);
      if (pointer !== '') expect(pointers).toContain(pointer);
    }
    const theirs = await api.put(bob, 'disk', 'bytes');
    expect((await refusal(carol, recipeOf({ base: { file: theirs.id } })))[1]).toBe('file-unknown');
  });

  test('waits while its owner has as many builds as permitted', async () => {
    const dora = await api.addOwner(`dora-${number}`, 'client');
    for (let i = 0; i < 4; i += 1) expect((await post(dora, recipeOf({ commands: [`${i}`] }))).status).toBe(202);
    expect(await refusal(dora, recipeOf({ commands: ['5'] }))).toEqual([403, 'quota-exceeded', []]);
  });
});

describe('a name', () => {
  test('refers to the last recipe with that name, as soon as that is ready', async () => {
    const one = await make(alice, { commands: ['one'] });
    const two = (await post(alice, recipeOf({ commands: ['two'] }))).body;
    const now = async () => (await api.call<ImageBody>(alice, 'GET', `/v1/images/${name}`)).body.id;
    expect(await now()).toBe(one.id);
    await end(two.id, 'ready');
    expect(await now()).toBe(two.id);
    await post(alice, recipeOf({ commands: ['one'] }));
    expect(await now()).toBe(one.id);
    const task = { image: name, command: ['true'] };
    const { body } = await api.call<{ vms: string[] }>(alice, 'POST', '/v1/tasks', { json: task });
    const vm = await api.ledger.vm.findUniqueOrThrow({ where: { id: body.vms[0]! } });
    expect(vm.imageId).toBe(one.id);
    await post(alice, recipeOf({ commands: ['two'] }));
    expect((await api.ledger.vm.findUniqueOrThrow({ where: { id: vm.id } })).imageId).toBe(one.id);
  });

  test("is its owner's: other owners have no such image, until an operator publishes it", async () => {
    const image = await make(alice);
    const path = `/v1/images/${name}`;
    const codes = async () => [
      (await api.call(bob, 'GET', path)).status,
      (await api.call(bob, 'POST', '/v1/tasks', { json: { image: name, command: ['true'] } })).status,
      (await api.call<Page<ImageBody>>(bob, 'GET', '/v1/images?limit=200')).body.items.filter(({ id }) => id === image.id).length,
    ];
    expect(await codes()).toEqual([404, 422, 0]);
    expect((await api.call(bob, 'DELETE', path)).status).toBe(404);
    expect((await api.call(bob, 'PUT', `${path}/publication`, { json: { published: true } })).status).toBe(403);
    const published = await api.call<ImageBody>(api.operator, 'PUT', `${path}/publication`, { json: { published: true } });
    expect(published.body).toMatchObject({ owner: alice.ownerId, published: true });
    expect(await codes()).toEqual([200, 202, 1]);
    expect((await api.call(bob, 'GET', `${path}/log`)).status).toBe(404);
    expect((await api.call(alice, 'DELETE', path)).body.code).toBe('in-use');
    await api.call(api.operator, 'PUT', `${path}/publication`, { json: { published: false } });
    expect((await codes())[0]).toBe(404);
  });

  test("of an owner's own precedes a published one, and is published of one owner alone", async () => {
    const theirs = await make(alice);
    await api.call(api.operator, 'PUT', `/v1/images/${name}/publication`, { json: { published: true } });
    const own = await make(bob);
    expect((await api.call<ImageBody>(bob, 'GET', `/v1/images/${name}`)).body.id).toBe(own.id);
    expect((await api.call<ImageBody>(alice, 'GET', `/v1/images/${name}`)).body.id).toBe(theirs.id);
    const second = await api.call(api.operator, 'PUT', `/v1/images/${name}/publication?owner=${bob.ownerId}`, {
      json: { published: true },
    });
    expect([second.status, second.body.code]).toEqual([409, 'conflict']);
  });
});

describe('deleting an image', () => {
  test('is refused while a VM was made from it, and final afterwards', async () => {
    const image = await make(alice);
    const json = { image: name, command: ['true'] };
    const { body } = await api.call<{ vms: string[] }>(alice, 'POST', '/v1/tasks', { json });
    const refused = await api.call(alice, 'DELETE', `/v1/images/${name}`);
    expect([refused.status, refused.body.code, refused.body.detail]).toEqual([
      409,
      'in-use',
      expect.stringContaining(body.vms[0]!),
    ]);
    await api.ledger.vm.update({ where: { id: body.vms[0]! }, data: { state: 'removed' } });
    expect((await api.call(alice, 'DELETE', `/v1/images/${name}`)).status).toBe(204);
    expect(api.workflows.requested.retired).toContain(image.id);
    expect((await api.call(alice, 'GET', `/v1/images/${name}`)).status).toBe(404);
    expect((await api.call(alice, 'POST', '/v1/tasks', { json })).body.code).toBe('image-unknown');
    const again = await post(alice, recipeOf());
    expect([again.status, again.body.id === image.id]).toEqual([202, false]);
  });

  test('cancels a build in progress', async () => {
    const { body } = await post(alice, recipeOf());
    const answer = await api.call<ImageBody>(alice, 'DELETE', `/v1/images/${name}`);
    expect([answer.status, answer.body.state]).toEqual([202, 'building']);
    expect(api.workflows.requested.cancelledBuilds).toContain(body.id);
    expect((await api.call(alice, 'POST', '/v1/images', { json: recipeOf() })).body.code).toBe('conflict');
    await end(body.id, 'failed');
    expect((await api.call(alice, 'DELETE', `/v1/images/${name}`)).status).toBe(204);
  });
});

describe('the files that a build stores', () => {
  const store = (url: string, bytes: string) =>
    fetch(url, { method: 'POST', body: bytes, headers: { 'content-type': 'application/octet-stream' } });

  test('remain one file when they are stored again, and are refused once the build has ended or another one began', async () => {
    const { body } = await post(alice, recipeOf());
    const url = `${api.signed('POST', `/internal/images/${body.id}/builds/${body.buildVm}/parts`)}&path=disk`;
    const first = (await (await store(url, 'a disk')).json()) as { file: string; sha256: string };
    expect(first.sha256).toBe(createHash('sha256').update('a disk').digest('hex'));
    const second = (await (await store(url, 'another disk')).json()) as { file: string; sizeBytes: number };
    expect([second.file, second.sizeBytes]).toEqual([first.file, 12]);
    await end(body.id, 'failed');
    expect((await store(url, 'late')).status).toBe(409);
    await post(alice, recipeOf());
    expect((await store(url, 'late')).status).toBe(409);
  });

  test('include a log that can be read during the build', async () => {
    const { body } = await post(alice, recipeOf());
    const url = api.signed('PUT', `/internal/images/${body.id}/builds/${body.buildVm}/log`);
    const headers = { 'content-type': 'application/octet-stream', 'content-range': 'bytes 0-4/*' };
    expect((await fetch(url, { method: 'PUT', body: 'hello', headers })).status).toBe(200);
    const log = await api.fetch(alice, 'GET', `/v1/images/${name}/log`);
    expect(await log.text()).toBe('hello');
    const following = api.fetch(alice, 'GET', `/v1/images/${name}/log?follow=1`);
    await end(body.id, 'ready');
    expect(await (await following).text()).toBe('hello');
  });
});

test('files of a recipe can be deleted when it is built, not before', async () => {
  const file = await api.put(alice, 'tool', `tool ${number}`);
  const { body } = await post(alice, recipeOf({ files: [{ path: '/opt/tool', file: file.id }] }));
  expect((await api.call(alice, 'DELETE', `/v1/files/${file.id}`)).body.code).toBe('in-use');
  await end(body.id, 'ready');
  expect((await api.fetch(alice, 'DELETE', `/v1/files/${file.id}`)).status).toBe(204);
});
