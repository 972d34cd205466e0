import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Quotas } from '../../ledger/owners/quotas.ts';
import { type Party, type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

interface MeBody {
  owner: { id: string; name: string };
  key: { id: string; role: string; expiresAt: string | null };
  quotas: Quotas;
}

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_MAX_QUEUED: '100000', BERTH_MAX_QUEUED_PER_OWNER: '100000' });
  await api.addImage('debian-12');
  await api.addHost('host-a', { vcpus: 64, memoryMiB: 1_000_000, diskMiB: 10_000_000 });
});
afterAll(() => api.end());

const set = (owner: string, quotas: object) =>
  api.call<{ quotas: Quotas }>(api.operator, 'PATCH', `/v1/owners/${owner}`, { json: { quotas } });
const me = async (party: Party) => (await api.call<MeBody>(party, 'GET', '/v1/me')).body;
const submit = (party: Party, more: object = {}) =>
  api.call<TaskBody & ProblemBody & { quota: string; limit: number; wanted: number }>(party, 'POST', '/v1/tasks', {
    json: { image: 'debian-12', command: ['true'], ...more },
  });
let made = 0;
const createVm = (party: Party, more: object = {}) => {
  made += 1;
  return api.call<{ id: string } & ProblemBody>(party, 'POST', '/v1/vms', {
    json: { name: `vm-${made}`, image: 'debian-12', ...more },
  });
};

describe('a quota', () => {
  test('is never passed by a hundred concurrent requests, and none is refused that would have fitted', async () => {
    const owner = await api.addOwner('edge', 'client');
    await set(owner.ownerId, { vcpus: 60 });
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, i) => (i % 2 === 0 ? submit(owner) : createVm(owner, { resources: { vcpus: 1 } }))),
    );
    expect(answers.filter(({ status }) => status === 202)).toHaveLength(60);
    const refused = answers.filter(({ status }) => status !== 202);
    expect(new Set(refused.map(({ status, body }) => `${status} ${body.code}`))).toEqual(new Set(['403 quota-exceeded']));
    expect((await me(owner)).quotas.vcpus).toEqual({ limit: 60, used: 60 });
    const [row] = await api.ledger.$queryRaw<{ sum: bigint }[]>`SELECT sum(vcpus) FROM "Vm" WHERE "ownerId" = ${owner.ownerId}`;
    expect(Number(row?.sum)).toBe(60);
  });

  test('has its last unit taken by one of a task and a VM, whichever comes first', async () => {
    for (let round = 0; round < 12; round += 1) {
      const owner = await api.addOwner(`last-${round}`, 'client');
      await set(owner.ownerId, { vcpus: 1 });
      const answers = await Promise.all([submit(owner), createVm(owner), submit(owner), createVm(owner)]);
      expect(answers.map(({ status }) => status).toSorted()).toEqual([202, 403, 403, 403]);
    }
  });

  test.each([
    ['vcpus', { vcpus: 3 }, { resources: { vcpus: 2 }, nodes: 2 }, { resources: { vcpus: 3 } }],
    ['memoryMiB', { memoryMiB: 512 }, { resources: { memoryMiB: 513 } }, { resources: { memoryMiB: 512 } }],
    ['diskMiB', { diskMiB: 1124 }, { resources: { diskMiB: 101 } }, { resources: { diskMiB: 100 } }],
    ['tasks', { tasks: 0 }, {}, null],
  ])('of %s refuses what exceeds it and says which, and takes what fits', async (name, quotas, tooMuch, fits) => {
    const owner = await api.addOwner(`of-${name}`, 'client');
    await set(owner.ownerId, quotas);
    const { status, body } = await submit(owner, tooMuch);
    expect([status, body.code, body.quota]).toEqual([403, 'quota-exceeded', name]);
    expect(await api.ledger.task.count({ where: { ownerId: owner.ownerId } })).toBe(0);
    if (fits !== null) expect((await submit(owner, fits)).status).toBe(202);
  });

  test('is free again when what used it has ended', async () => {
    const owner = await api.addOwner('again', 'client');
    await set(owner.ownerId, { tasks: 1, vcpus: 1 });
    const first = await submit(owner);
    expect((await submit(owner)).status).toBe(403);
    await api.advance(first.body.id, 'cancelled');
    await api.ledger.vm.updateMany({ where: { taskId: first.body.id }, data: { state: 'removed' } });
    expect((await submit(owner)).status).toBe(202);
  });

  test('of reserved hours counts what is left of promised leases, and that of the horizon their end', async () => {
    const owner = await api.addOwner('reserves', 'client');
    await set(owner.ownerId, { reservedVcpuHours: 4, horizonS: 7 * 86_400 });
    const lease = (inDays: number, hours: number) => ({
      lease: { kind: 'reservation', startAt: new Date(Date.now() + inDays * 86_400_000).toISOString(), durationS: hours * 3600 },
    });
    const refusals = [
      await submit(owner, { ...lease(1, 5), timeoutS: 60 }),
      await submit(owner, { ...lease(1, 1), nodes: 5, timeoutS: 60 }),
      await submit(owner, { ...lease(8, 1), timeoutS: 60 }),
    ];
    expect(refusals.map(({ status, body }) => [status, body.quota])).toEqual([
      [403, 'reservedVcpuHours'],
      [403, 'reservedVcpuHours'],
      [403, 'horizonS'],
    ]);
    expect((await submit(owner, { ...lease(1, 3), timeoutS: 60 })).status).toBe(202);
    expect((await me(owner)).quotas.reservedVcpuHours).toEqual({ limit: 4, used: 3 });
    const vm = await createVm(owner, { lease: { ...lease(2, 2).lease } });
    expect([vm.status, vm.body.code]).toEqual([403, 'quota-exceeded']);
    expect((await createVm(owner, { lease: { ...lease(2, 1).lease } })).status).toBe(202);
  });

  test('counts the VMs of builds', async () => {
    const owner = await api.addOwner('builds', 'client');
    const parts = { disk: { file: 'd' }, kernel: { file: 'k' }, initrd: { file: 'i' } };
    await api.ledger.image.update({ where: { id: await api.addImage('base-1') }, data: { parts } });
    await set(owner.ownerId, { vcpus: 1 });
    const build = (name: string) => api.call(owner, 'POST', '/v1/images', { json: { name, base: { image: 'base-1' } } });
    expect((await build('one')).status).toBe(202);
    const second = await build('two');
    expect([second.status, second.body.code]).toEqual([403, 'quota-exceeded']);
  });

  test("of an owner that has more than it stays as it is, and null gives the site's limit back", async () => {
    const owner = await api.addOwner('lowered', 'client');
    await submit(owner, { resources: { vcpus: 4 } });
    expect((await set(owner.ownerId, { vcpus: 2 })).body.quotas.vcpus).toEqual({ limit: 2, used: 4 });
    expect((await submit(owner)).status).toBe(403);
    expect((await set(owner.ownerId, { vcpus: null })).body.quotas.vcpus).toEqual({ limit: 1024, used: 4 });
    expect((await submit(owner)).status).toBe(202);
  });
});

describe('owners', () => {
  test('are made once for each name and key, by operators alone', async () => {
    const make = (name: string, key: string, party = api.operator) =>
      api.call<{ id: string; name: string; quotas: Quotas; code: string }>(party, 'POST', '/v1/owners', {
        json: { name, quotas: { vcpus: 7 } },
        headers: { 'Idempotency-Key': key },
      });
    const first = await make('physics', 'a');
    expect([first.status, first.body.quotas.vcpus]).toEqual([201, { limit: 7, used: 0 }]);
    expect((await make('physics', 'a')).text).toBe(first.text);
    expect((await make('physics', 'b')).body.code).toBe('conflict');
    expect((await make('other', 'c', api.alice)).status).toBe(403);
    const key = await api.call<{ key: string }>(api.operator, 'POST', '/v1/keys', {
      json: { owner: first.body.id, name: 'first' },
    });
    const party = { ownerId: first.body.id, keyId: '', key: key.body.key };
    expect((await me(party)).owner).toEqual({ id: first.body.id, name: 'physics' });
  });

  test.each([{ vcpus: -1 }, { vcpus: 1.5 }, { unheard: 1 }, { tasks: 2 ** 31 }])('have no quota %j', async (quotas) => {
    expect((await set(api.alice.ownerId, quotas)).status).toBe(400);
  });
});

test('a client lets others pass and goes before nobody; an operator may', async () => {
  const ask = (party: Party, priority: number) => submit(party, { lease: { priority } });
  expect([(await ask(api.alice, 0)).status, (await ask(api.alice, -100)).status]).toEqual([202, 202]);
  const refused = await ask(api.alice, 1);
  expect([refused.status, refused.body.code, refused.body.errors[0]?.pointer]).toEqual([403, 'forbidden', '/lease/priority']);
  expect((await ask(api.operator, 100)).status).toBe(202);
});
