import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId, type VmId } from '../../model/ids.ts';
import { type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
let hosts = 0;
let addresses = 1;

interface Vm {
  id: string;
  state: string;
}

beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
});
afterAll(() => api.end());

const newHost = async (): Promise<string> => {
  hosts += 1;
  const id = `host-${hosts}`;
  await api.addHost(id);
  return id;
};

const task = async (nodes = 1): Promise<TaskBody> =>
  (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json: { image: 'debian-12', command: ['true'], nodes } })).body;

async function vm(name: string, host: string): Promise<string> {
  const { id } = (await api.call<Vm>(api.alice, 'POST', '/v1/vms', { json: { name, image: 'debian-12' } })).body;
  await runsAt(id, host);
  return id;
}

/** It runs there since a minute, with an address of its own. */
async function runsAt(id: string, host: string): Promise<void> {
  await api.runOn(id, host);
  addresses += 1;
  const address = `10.99.0.${addresses}`;
  await api.ledger.vm.update({ where: { id }, data: { address, startedAt: new Date(Date.now() - 60_000) } });
}

const row = (id: string) => api.ledger.vm.findUniqueOrThrow({ where: { id } });
const used = async (id: string): Promise<number[]> => {
  const { usedVcpus, usedMemoryMiB, usedDiskMiB } = await api.ledger.host.findUniqueOrThrow({ where: { id } });
  return [usedVcpus, usedMemoryMiB, usedDiskMiB];
};
const events = (subject: string) => api.ledger.event.findMany({ where: { subject }, orderBy: { seq: 'asc' } });
const endsOf = async (workflow: string) => api.ledger.workflowEnd.count({ where: { workflowId: workflow } });
const force = <T>(path: string, json: object = { reason: 'lost its host' }) =>
  api.call<T>(api.operator, 'POST', `${path}/force-end`, { json });
const unknown = (id: string) => api.ledger.host.update({ where: { id }, data: { state: 'unknown' } });

describe('a record that is ended by force', () => {
  test('a task has its completion event and its bill; what its VMs take stays fenced, and its workflow is to end', async () => {
    const host = await newHost();
    const { id, vms } = await task();
    await runsAt(vms[0]!, host);
    await api.advance(id, 'stagingIn', 'starting', 'running');
    const before = await used(host);
    const { status, body } = await force<TaskBody>(`/v1/tasks/${id}`);
    expect([status, body.state, body.error?.code]).toEqual([200, 'failed', 'force-ended']);
    expect(body.error?.message).toContain('lost its host');
    const ended = (await events(id)).filter(({ type }) => type === 'berth.task.failed');
    expect(ended.map(({ data }) => (data as { vcpuSeconds: number }).vcpuSeconds >= 60)).toEqual([true]);
    expect((await row(vms[0]!)).state).toBe('removed');
    expect(await used(host)).toEqual(before);
    const shown = await api.call<{ fenced: { vm: string }[] }>(api.operator, 'GET', `/v1/hosts/${host}`);
    expect(shown.body.fenced.map((one) => one.vm)).toEqual(vms);
    expect(await endsOf(`task-${id}`)).toBe(1);
    expect(api.workflows.requested.reconciled).toContain(host);
    // Again: nothing changes, and there is one event.
    expect((await force<TaskBody>(`/v1/tasks/${id}`)).body.state).toBe('failed');
    expect((await events(id)).filter(({ type }) => type === 'berth.task.failed')).toHaveLength(1);
  });

  test('stored outputs of a task are kept', async () => {
    const { id, vms } = await task();
    await runsAt(vms[0]!, await newHost());
    const file = { ownerId: api.alice.ownerId, name: 'out/a', state: 'ready' as const, sizeBytes: 3n, sha256: 'ab'.repeat(32) };
    await api.ledger.file.create({ data: { id: newId('file'), ...file, taskId: id, node: 0 } });
    const { body } = await force<TaskBody>(`/v1/tasks/${id}`);
    expect(body.outputs.map(({ path }) => path)).toEqual(['out/a']);
  });

  test('a VM is billed until now once, its name is free, and its address is not', async () => {
    const host = await newHost();
    const id = await vm('web', host);
    const { address } = await row(id);
    expect((await force<Vm>(`/v1/vms/${id}`)).body.state).toBe('removed');
    await force(`/v1/vms/${id}`);
    const removed = (await events(id)).filter(({ type }) => type === 'berth.vm.removed');
    expect(removed.map(({ data }) => (data as { usage: unknown[] }).usage.length)).toEqual([1]);
    const again = await api.call<Vm>(api.alice, 'POST', '/v1/vms', { json: { name: 'web', image: 'debian-12' } });
    expect(again.status).toBe(202);
    await expect(api.ledger.vm.update({ where: { id: again.body.id }, data: { address } })).rejects.toThrow(/fenced/);
    expect(await api.ledger.fence.count({ where: { address } })).toBe(1);
  });

  test.each(['paused', 'stopped', 'suspended', 'stuck', 'removing'] as const)('a VM that is %s can be ended', async (state) => {
    const host = await newHost();
    const id = await vm(`vm-${state}`, host);
    if (state === 'suspended') await api.ledger.vm.update({ where: { id }, data: { state: 'suspending' } });
    await api.ledger.vm.update({ where: { id }, data: { state } });
    const before = await used(host);
    expect((await force<Vm>(`/v1/vms/${id}`)).body.state).toBe('removed');
    expect(await used(host)).toEqual(before);
  });

  test('a host whose capacity has shrunk below its sum takes a fence all the same', async () => {
    const host = await newHost();
    const id = await vm('large', host);
    await api.ledger.host.update({ where: { id: host }, data: { vcpus: 0, memoryMiB: 0 } });
    expect((await force<Vm>(`/v1/vms/${id}`)).status).toBe(200);
    expect((await used(host))[0]).toBeGreaterThan(0);
  });

  test('its later steps are refused by the ledger', async () => {
    const id = await vm('late', await newHost());
    const { generation } = await row(id);
    await force(`/v1/vms/${id}`);
    for (const state of ['running', 'creating', 'stuck', 'removing'] as const)
      await expect(api.ledger.vm.update({ where: { id }, data: { state } })).rejects.toThrow(/cannot go from removed/);
    expect((await row(id)).generation).toBeGreaterThan(generation);
  });

  test("a task's VM is ended with its task, and by itself once the task is over", async () => {
    const { id, vms } = await task();
    await runsAt(vms[0]!, await newHost());
    expect((await force<ProblemBody>(`/v1/vms/${vms[0]}`)).body.code).toBe('conflict');
    await api.advance(id, 'failed');
    await api.ledger.vm.update({ where: { id: vms[0]! }, data: { state: 'stuck' } });
    expect((await force<Vm>(`/v1/vms/${vms[0]}`)).body.state).toBe('removed');
  });

  test('a drain is incomplete, and its host stays closed', async () => {
    const host = await newHost();
    const order = { deadline: new Date(Date.now() + 3600_000).toISOString() };
    const drain = (await api.call<{ id: string }>(api.operator, 'POST', `/v1/hosts/${host}/drains`, { json: order })).body;
    const { body } = await force<{ state: string; remaining: { why: string }[] }>(`/v1/drains/${drain.id}`);
    expect([body.state, body.remaining[0]?.why]).toEqual(['incomplete', expect.stringContaining('lost its host')]);
    expect((await api.ledger.host.findUniqueOrThrow({ where: { id: host } })).schedulable).toBe(false);
    expect(await endsOf(`drain-${host}-1`)).toBe(1);
  });

  test('a build has failed, and can be refusal for again', async () => {
    const parts = { disk: { file: 'd' }, kernel: { file: 'k' }, initrd: { file: 'i' } };
    await api.ledger.image.update({ where: { id: await api.addImage('base-1') }, data: { parts } });
    const recipe = { name: 'mine', base: { image: 'base-1' } };
    const built = (await api.call<{ id: string; buildVm: string }>(api.operator, 'POST', '/v1/images', { json: recipe })).body;
    await runsAt(built.buildVm, await newHost());
    const { body } = await force<{ state: string; error: { code: string } }>('/v1/images/mine');
    expect([body.state, body.error.code]).toEqual(['failed', 'force-ended']);
    expect(await api.ledger.fence.count({ where: { vmId: built.buildVm } })).toBe(1);
    expect((await events(built.id)).map(({ type }) => type)).toContain('berth.image.forceEnded');
    expect((await api.call(api.operator, 'POST', '/v1/images', { json: recipe })).status).toBe(202);
    expect((await force<ProblemBody>('/v1/images/debian-12')).body.code).toBe('conflict');
  });
});

describe('a migration that is ended by force', () => {
  async function stuckMigration(name: string) {
    const [from, to] = [await newHost(), await newHost()];
    const id = await vm(name, from);
    const migration = (await api.call<{ id: string }>(api.operator, 'POST', `/v1/vms/${id}/migrations`, { json: { to } })).body
      .id;
    await api.ledger.migration.update({ where: { id: migration }, data: { reserved: true, toId: to, startedAt: new Date() } });
    await api.ledger.vm.update({ where: { id }, data: { state: 'migrating' } });
    return { id, from, to, migration };
  }

  test('is refused while it runs and nobody has aborted it', async () => {
    const { migration } = await stuckMigration('moving');
    const { status, body } = await force<ProblemBody>(`/v1/migrations/${migration}`, { vmAt: 'source' });
    expect([status, body.code]).toEqual([409, 'conflict']);
  });

  test.each(['source', 'target'] as const)('has its VM at the %s, and the other host fenced', async (vmAt) => {
    const { id, from, to, migration } = await stuckMigration(`stuck-${vmAt}`);
    await api.ledger.migration.update({ where: { id: migration }, data: { state: 'stuck' } });
    const { vcpus } = await row(id);
    const { body } = await force<{ state: string }>(`/v1/migrations/${migration}`, { vmAt });
    expect(body.state).toBe(vmAt === 'target' ? 'succeeded' : 'rolledBack');
    const [there, other] = vmAt === 'target' ? [to, from] : [from, to];
    expect(await row(id)).toMatchObject({ state: 'running', hostId: there });
    expect(await api.ledger.fence.findMany({ where: { vmId: id } })).toMatchObject([{ hostId: other, vcpus, address: null }]);
    expect((await used(there))[0]).toBe(vcpus);
    expect((await used(other))[0]).toBe(vcpus);
    expect((await events(migration)).map(({ type }) => type)).toEqual(['berth.migration.forceEnded']);
    // Until the other host has confirmed, it moves no further.
    const next = await api.call<ProblemBody>(api.operator, 'POST', `/v1/vms/${id}/migrations`, { json: {} });
    expect([next.status, next.body.detail]).toEqual([409, expect.stringContaining(other)]);
  });

  test('a VM that is ended after that is fenced where it is and where it may still be, with its address', async () => {
    const { id, from, to, migration } = await stuckMigration('ended-later');
    const { address } = await row(id);
    await api.ledger.migration.update({ where: { id: migration }, data: { state: 'stuck' } });
    await force(`/v1/migrations/${migration}`, { vmAt: 'source' });
    const before = [await used(from), await used(to)];
    await force(`/v1/vms/${id}`);
    const fences = await api.ledger.fence.findMany({ where: { vmId: id }, orderBy: { hostId: 'asc' } });
    expect(fences.map((fence) => [fence.hostId, fence.address])).toEqual([from, to].toSorted().map((host) => [host, address]));
    expect([await used(from), await used(to)]).toEqual(before);
  });

  test('a VM whose disks are on their way to it is fenced with the room for them', async () => {
    const { id, from, to, migration } = await stuckMigration('disks-follow');
    const moved = { state: 'running' as const, reserved: false, committedAt: new Date(), moveDisk: true, diskMiB: 700 };
    await api.ledger.migration.update({ where: { id: migration }, data: moved });
    await api.ledger.vm.update({ where: { id }, data: { state: 'running', hostId: to, generation: { increment: 1 } } });
    const refused = await force<ProblemBody>(`/v1/migrations/${migration}`, { vmAt: 'target' });
    expect(refused.body.detail).toContain('has arrived');
    const before = [await used(from), await used(to)];
    await force(`/v1/vms/${id}`);
    expect([await used(from), await used(to)]).toEqual(before);
    expect((await api.ledger.migration.findUniqueOrThrow({ where: { id: migration } })).state).toBe('succeeded');
  });

  test('a VM that is ended while it moves is fenced at both hosts', async () => {
    const { id, from, to, migration } = await stuckMigration('both');
    await force(`/v1/vms/${id}`);
    const fences = await api.ledger.fence.findMany({ where: { vmId: id }, orderBy: { hostId: 'asc' } });
    expect(fences.map(({ hostId }) => hostId)).toEqual([from, to].toSorted());
    expect((await api.ledger.migration.findUniqueOrThrow({ where: { id: migration } })).state).toBe('rolledBack');
    expect(await endsOf(`migrate-${id}-2`)).toBe(1);
  });
});

describe('a host', () => {
  const remove = (id: string, query = '') =>
    api.call<ProblemBody & { token: string; lost: object }>(api.operator, 'DELETE', `/v1/hosts/${id}${query}`);
  const close = (id: string) => api.ledger.host.update({ where: { id }, data: { schedulable: false } });

  test('is removed when it is closed and empty, and is taken up again as a new one', async () => {
    const host = await newHost();
    expect((await remove(host)).body.code).toBe('conflict');
    const id = await vm('in-the-way', host);
    await close(host);
    expect((await remove(host)).body.detail).toContain(id);
    await force(`/v1/vms/${id}`);
    expect((await remove(host)).body.detail).toContain('not confirmed');
    await api.ledger.fence.deleteMany({ where: { hostId: host } });
    expect((await remove(host)).status).toBe(204);
    expect((await api.call(api.operator, 'GET', `/v1/hosts/${host}`)).status).toBe(404);
    const listed = await api.call<{ items: { id: string }[] }>(api.operator, 'GET', '/v1/hosts');
    expect(listed.body.items.map((one) => one.id)).not.toContain(host);
    expect((await remove(host)).status).toBe(404);
    expect((await events(host)).map(({ type }) => type)).toEqual(['berth.host.removed']);
    expect(await endsOf(`host-${host}`)).toBe(1);
    await expect(vm('too-late', host)).rejects.toThrow(/was removed/);
  });

  test('that is declared lost says what is lost, and takes it along when that is confirmed', async () => {
    const [host, home] = [await newHost(), await newHost()];
    const { id: taskId, vms } = await task(2);
    await runsAt(vms[0]!, host);
    await runsAt(vms[1]!, home);
    const away = await vm('away', host);
    await api.ledger.vm.update({ where: { id: away }, data: { homeId: home } });
    expect((await remove(host, '?declaredLost=true')).body.code).toBe('conflict');
    await unknown(host);
    const refusal = await remove(host, '?declaredLost=true');
    expect([refusal.status, refusal.body.code, refusal.body.lost]).toEqual([
      409,
      'confirmation-needed',
      { tasks: [taskId], vms: [away], images: [] },
    ]);
    expect((await remove(host, '?declaredLost=true&confirm=guessed')).body.code).toBe('confirmation-needed');
    // What would be lost has changed: the token is of another list.
    const more = await vm('more', host);
    const changed = await remove(host, `?declaredLost=true&confirm=${refusal.body.token}`);
    expect([changed.body.code, changed.body.detail]).toEqual(['confirmation-needed', expect.stringContaining('has changed')]);
    expect((await row(more)).state).toBe('running');
    expect((await remove(host, `?declaredLost=true&confirm=${changed.body.token}`)).status).toBe(204);
    const { body } = await api.call<TaskBody>(api.alice, 'GET', `/v1/tasks/${taskId}`);
    expect([body.state, body.error?.code]).toEqual(['failed', 'vm-lost']);
    for (const id of [away, more]) expect((await row(id)).state).toBe('removed');
    // Hosts that live confirm what they have: a node of the task, and the disks of a VM that ran on the lost one.
    const fences = await api.ledger.fence.findMany({ where: { hostId: { in: [host, home] } } });
    expect(fences.map(({ vmId, hostId }) => [vmId as VmId, hostId]).toSorted()).toEqual(
      [
        [vms[1]!, home],
        [away, home],
      ].toSorted(),
    );
    const lost = await api.ledger.host.findUniqueOrThrow({ where: { id: host } });
    expect([lost.usedVcpus, lost.schedulable]).toEqual([0, false]);
    expect(await endsOf(`host-${host}`)).toBe(0);
  });

  test('that is lost takes no VM along that was to come to it', async () => {
    const [from, to] = [await newHost(), await newHost()];
    const id = await vm('coming', from);
    const migration = (await api.call<{ id: string }>(api.operator, 'POST', `/v1/vms/${id}/migrations`, { json: { to } })).body
      .id;
    await api.ledger.migration.update({ where: { id: migration }, data: { reserved: true } });
    await unknown(to);
    const { token } = (await remove(to, '?declaredLost=true')).body;
    expect((await remove(to, `?declaredLost=true&confirm=${token}`)).status).toBe(204);
    expect(await row(id)).toMatchObject({ state: 'running', hostId: from });
    expect((await api.ledger.migration.findUniqueOrThrow({ where: { id: migration } })).state).toBe('rolledBack');
  });

  test('clients have none of these levers', async () => {
    const { id } = await task();
    expect((await api.call(api.alice, 'POST', `/v1/tasks/${id}/force-end`, { json: {} })).status).toBe(403);
    expect((await api.call(api.alice, 'DELETE', '/v1/hosts/host-1')).status).toBe(403);
  });
});
