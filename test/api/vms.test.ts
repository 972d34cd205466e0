import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { type RunningApi, startApi } from './running-api.ts';

interface VmBody {
  id: string;
  name: string;
  state: string;
  operation: string | null;
  lease: { startsAt: string | null; durationS: number | null; endsAt: string | null } | null;
  removalRequestedAt: string | null;
  problem: object | null;
}

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_MAX_VMS_PER_OWNER: '8' });
  await api.addImage('debian-12');
  await api.addHost('host-a');
});
afterAll(() => api.end());

const sshKey = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4v1u2n4m7Yb0cA5o9oJb1y1mK8Z4o0bq0Yk2Zq3x8T ann@example';
let made = 0;
const order = (more: object = {}) => {
  made += 1;
  return { name: `vm-${made}`, image: 'debian-12', ...more };
};
const create = (json: object, headers: Record<string, string> = {}, party = api.alice) =>
  api.call<VmBody & { code: string; errors: { pointer: string }[] }>(party, 'POST', '/v1/vms', { json, headers });

describe('POST /v1/vms', () => {
  test('accepts a VM, notifies its workflow, and gives the same answer for the same key', async () => {
    const file = await api.put(api.alice, 'conf', 'x');
    const json = order({
      user: { name: 'ann', sshKey },
      files: [{ path: '/etc/app.conf', file: file.id }],
      firstBoot: ['echo hello >/etc/motd'],
      swapMiB: 64,
      lease: { durationS: 60 },
    });
    const headers = { 'idempotency-key': 'one' };
    const first = await create(json, headers);
    expect([first.status, first.body.state, first.body.lease]).toEqual([
      202,
      'pending',
      { kind: 'bestEffort', startsAt: null, durationS: 60, endsAt: null },
    ]);
    expect(first.headers.get('location')).toBe(`/v1/vms/${first.body.id}`);
    expect((await create(json, headers)).text).toBe(first.text);
    expect((await create(order(), headers)).body.code).toBe('idempotency-mismatch');
    expect(api.workflows.requested.vms.filter((id) => id === first.body.id)).toHaveLength(2);
    const events = await api.ledger.event.findMany({ where: { subject: first.body.id } });
    expect(events.map(({ type }) => type)).toEqual(['berth.vm.created']);
  });

  test('is accepted while Temporal is unreachable', async () => {
    api.workflows.requested.away = true;
    expect((await create(order())).status).toBe(202);
    api.workflows.requested.away = false;
  });

  test.each([
    ['a name that is no DNS label', { name: 'Not_A_Label' }, '/name'],
    ['a key with options', { user: { name: 'ann', sshKey: `command="sh" ${sshKey}` } }, '/user/sshKey'],
    ['a key of two lines', { user: { name: 'ann', sshKey: `${sshKey}\n${sshKey}` } }, '/user/sshKey'],
    ['a user that sh would take for more', { user: { name: 'ann; reboot', sshKey } }, '/user/name'],
    ['a user that is a group in Debian', { user: { name: 'staff', sshKey } }, '/user/name'],
    ['a key that is a word', { user: { name: 'ann', sshKey: 'ssh-ed25519 hello' } }, '/user/sshKey'],
    ['a folder in place of a file', { files: [{ path: '/etc', file: 'file_x' }] }, '/files/0/path'],
    ['a mode with set-uid', { files: [{ path: '/opt/x', file: 'file_x', mode: '4755' }] }, '/files/0/mode'],
    ['a number for a name', { name: '123' }, '/name'],
    ['a name of the guest itself', { name: 'localhost' }, '/name'],
    ['a path that climbs', { files: [{ path: '/etc/../root', file: 'file_x' }] }, '/files/0/path'],
    ['a file that is not there', { files: [{ path: '/etc/x', file: 'file_x' }] }, '/files/0/file'],
    ['an image that is not there', { image: 'nothing' }, '/image'],
    ['more than any host has', { resources: { vcpus: 64, memoryMiB: 1024, diskMiB: 64 } }, '/resources'],
    ['a root larger than any disk', { rootMiB: 900_000 }, '/resources'],
  ])('refuses %s', async (_, more, pointer) => {
    const answer = await create(order(more));
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect(answer.body.errors.map((error) => error.pointer)).toContain(pointer);
  });

  test('refuses a name that another VM of this owner has, until that is removed; other owners may use it', async () => {
    const json = order();
    const { body } = await create(json);
    expect((await create(json)).body.code).toBe('conflict');
    expect((await create(json, {}, api.bob)).status).toBe(202);
    await api.ledger.vm.update({ where: { id: body.id }, data: { state: 'removed' } });
    expect((await create(json)).status).toBe(202);
  });

  test('is bounded for each owner', async () => {
    const owner = await api.addOwner('carol', 'client');
    await api.ledger.owner.update({ where: { id: owner.ownerId }, data: { maxVms: 1 } });
    const answers = await Promise.all([create(order(), {}, owner), create(order(), {}, owner)]);
    expect(answers.map(({ status }) => status).toSorted()).toEqual([202, 403]);
  });
});

describe('operations', () => {
  async function running(): Promise<string> {
    const { body } = await create(order(), {}, api.operator);
    await api.runOn(body.id, 'host-a');
    return body.id;
  }
  const ask = (id: string, operation: string, party = api.operator) =>
    api.call<VmBody & { code: string }>(party, 'POST', `/v1/vms/${id}/${operation}`);

  test('are recorded for its workflow, one at a time, and refused where the state does not allow them', async () => {
    const id = await running();
    expect((await ask(id, 'restore')).status).toBe(200);
    const requested = await ask(id, 'suspend');
    expect([requested.status, requested.body.operation]).toEqual([202, 'suspend']);
    expect((await ask(id, 'suspend')).status).toBe(202);
    expect([(await ask(id, 'pause')).status, (await ask(id, 'pause')).body.code]).toEqual([409, 'conflict']);
    expect(api.workflows.requested.notified).toContain(id);
    await api.ledger.vm.update({ where: { id }, data: { state: 'paused', operation: null, operationAt: null } });
    expect((await ask(id, 'restore')).status).toBe(409);
    expect((await ask(id, 'resume')).status).toBe(202);
  });

  test('and the removal are refused for the VM of a task, and not found by other owners', async () => {
    const json = { image: 'debian-12', command: ['true'] };
    const { body } = await api.call<{ vms: string[] }>(api.operator, 'POST', '/v1/tasks', { json });
    const ofTask = body.vms[0]!;
    expect((await ask(ofTask, 'pause')).body.code).toBe('conflict');
    expect((await api.call(api.operator, 'DELETE', `/v1/vms/${ofTask}`)).status).toBe(409);
    const id = await running();
    expect((await ask(id, 'pause', api.bob)).status).toBe(404);
    expect((await api.call(api.bob, 'DELETE', `/v1/vms/${id}`)).status).toBe(404);
  });

  test('end with its removal, which is recorded once and notified again', async () => {
    const id = await running();
    const first = await api.call<VmBody>(api.operator, 'DELETE', `/v1/vms/${id}`);
    expect([first.status, first.body.removalRequestedAt === null]).toEqual([202, false]);
    const second = await api.call<VmBody>(api.operator, 'DELETE', `/v1/vms/${id}`);
    expect(second.body.removalRequestedAt).toBe(first.body.removalRequestedAt);
    expect((await ask(id, 'pause')).status).toBe(409);
    await api.ledger.vm.update({ where: { id }, data: { state: 'removing' } });
    await api.ledger.vm.update({ where: { id }, data: { state: 'removed' } });
    expect((await api.call(api.operator, 'DELETE', `/v1/vms/${id}`)).status).toBe(200);
  });
});

describe('GET /v1/vms/{id}/console', () => {
  const text = Array.from({ length: 40_000 }, (_, line) => `line ${line}\n`).join('');
  let id: string;
  beforeAll(async () => {
    id = (await create(order(), {}, api.operator)).body.id;
    api.workflows.requested.consoles.set(id, text);
  });
  const read = (query: string, headers: Record<string, string> = {}, party = api.operator) =>
    api.fetch(party, 'GET', `/v1/vms/${id}/console${query}`, { headers });

  test('returns its end, of the requested length', async () => {
    const whole = await read('');
    expect([whole.status, await whole.text()]).toEqual([200, text.slice(-65_536)]);
    expect(await (await read('?tail=100')).text()).toBe(text.slice(-100));
    expect((await read(`?tail=${2 ** 20}`)).status).toBe(400);
  });

  test.each([
    ['bytes=0-9', 0, 10],
    ['bytes=100-', 100, 100 + 131_072],
    ['bytes=-20', text.length - 20, text.length],
    [`bytes=${text.length - 5}-${text.length + 5}`, text.length - 5, text.length],
  ])('gives the range %s, and no more than a page of it', async (range, from, to) => {
    const answer = await read('', { range });
    expect([answer.status, answer.headers.get('content-range')]).toEqual([206, `bytes ${from}-${to - 1}/${text.length}`]);
    expect(await answer.text()).toBe(text.slice(from, to));
  });

  test('has nothing after its end, and returns its length', async () => {
    const answer = await read('', { range: `bytes=${text.length}-` });
    expect([answer.status, answer.headers.get('content-range')]).toEqual([416, `bytes */${text.length}`]);
  });

  test('ignores an invalid range of one interval, and is not found by other owners', async () => {
    for (const range of ['lines=0-5', 'bytes=5-1', 'bytes=0-1,4-5'])
      expect((await read('?tail=10', { range })).status).not.toBe(500);
    expect(await (await read('?tail=10', { range: 'bytes=0-1,4-5' })).text()).toBe(text.slice(-10));
    expect((await read('', {}, api.alice)).status).toBe(404);
  });

  test('is a problem where its host, or Temporal, does not answer', async () => {
    api.workflows.requested.away = true;
    expect((await read('')).status).toBe(503);
    api.workflows.requested.away = false;
  });
});

describe('a file that a VM names', () => {
  const withFile = async () => {
    const file = await api.put(api.alice, 'conf', 'x');
    return { file, json: order({ files: [{ path: '/etc/app.conf', file: file.id }] }) };
  };
  const remove = (file: string) =>
    api.call<{ code: string; detail: string } | null>(api.alice, 'DELETE', `/v1/files/${file}`, {});

  test('cannot be deleted until the VM is set up', async () => {
    const { file, json } = await withFile();
    const { id } = (await create(json)).body;
    const refused = await remove(file.id);
    expect([refused.status, refused.body?.code]).toEqual([409, 'in-use']);
    expect(refused.body?.detail).toContain(id);
    await api.ledger.vm.update({ where: { id }, data: { hostKey: 'ssh-ed25519 AAAA' } });
    expect((await remove(file.id)).status).toBe(204);
  });

  test('cannot be deleted while the VM is being accepted', async () => {
    const { file, json } = await withFile();
    const limits = { maxWait: 20_000, timeout: 30_000 };
    const deletion = await api.ledger.$transaction(async (tx) => {
      await acceptVm(tx, { owner: api.alice.ownerId, order: VmRequest.parse(json), nowMs: Date.now() });
      let answered = false;
      const answer = remove(file.id).finally(() => {
        answered = true;
      });
      // Until the deletion waits for this transaction, or, without the lock, has been answered.
      await vi.waitFor(
        async () => {
          const waiting = await api.ledger.$queryRaw<unknown[]>`
            SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`;
          expect(answered || waiting.length > 0).toBe(true);
        },
        { timeout: 20_000 },
      );
      return { answer };
    }, limits);
    expect((await deletion.answer).body?.code).toBe('in-use');
  });
});
