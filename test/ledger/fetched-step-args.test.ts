import { beforeEach, expect, it } from 'vitest';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { accept, addImage, addOwner, empty, failure, fetched, hex64, hostFacts, roomy, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  await fixture.activities.registerHost(hostFacts('a', { vcpus: 64, memoryMiB: 65_536, diskMiB: 262_144 }));
});

const kib = (value: unknown): number => Buffer.byteLength(JSON.stringify(value)) / 1024;

/** The last task that may be asked for: 64 nodes, each told of 100 inputs and a command of tens of kilobytes. */
async function largest(): Promise<TaskId> {
  const file = { ownerId: owner, name: 'part', state: 'ready' as const, sizeBytes: 1n, sha256: hex64 };
  const files = Array.from({ length: 100 }, (_, n) => ({ id: `file_${n}`, ...file }));
  await fixture.ledger.file.createMany({ data: files });
  const resources = { vcpus: 1, memoryMiB: 256, diskMiB: 512 };
  const command = ['sh', '-c', 'x'.repeat(60_000)];
  const inputs = files.map(({ id }, n) => ({ path: `in/${n}`, file: id }));
  return accept(fixture, owner, { nodes: 64, command, inputs, resources });
}

/** Hosts that the site has had, which are part of its networks. */
const addThousandHosts = () =>
  fixture.sql(`
    INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
    SELECT 'far-' || n, '10.9.' || n / 250 || '.' || n % 250, provider, 'unknown', 0, 0, 0, "cpuModel", accelerator, hypervisor, "bootId", "seenAt"
    FROM "Host", generate_series(1, 1000) AS n WHERE id = 'a'`);

it('leaves the machines of a site of a thousand out of the sagas of a VM and of its migration', async () => {
  await addImage(fixture, 'small', 100);
  await addThousandHosts();
  const order = VmRequest.parse({ name: 'web', image: 'small', resources: { vcpus: 1, memoryMiB: 256, diskMiB: 512 } });
  const id = await fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs: fixture.now }));
  const placed = await fixture.activities.reserveVm(id);
  expect(placed).toMatchObject({ placed: true });
  expect(kib(placed)).toBeLessThan(4);
  expect(kib(await fixture.activities.issueVmSetup(id))).toBeLessThan(4);
  await fixture.activities.setVmState(id, 'creating');
  await fixture.activities.recordVmStarted(id, new Date(fixture.now).toISOString(), { kind: 'warm' });
  await fixture.activities.registerHost(hostFacts('b', roomy));
  const migration = await fixture.ledger.$transaction((tx) =>
    acceptMigration(tx, { vm: id, to: 'b', coldFallback: false, requestedBy: owner, reason: null, nowMs: fixture.now }),
  );
  const admission = await fixture.activities.reserveMigration(migration);
  expect(admission).toMatchObject({ admitted: true });
  expect(kib(admission)).toBeLessThan(4);
});

it('leaves what a gang is told to its hosts, on a site of a thousand', async () => {
  await addThousandHosts();
  const task = await largest();
  const { loadTask, reserveTask, advanceTask } = fixture.activities;
  expect(kib(await loadTask(task))).toBeLessThan(8);
  const placement = await reserveTask(task);
  if (!placement.placed) throw new Error(`not placed: ${JSON.stringify(placement)}`);
  expect(kib(placement)).toBeLessThan(64);
  expect(kib(await advanceTask(task, 'stagingIn', []))).toBeLessThan(128);
  // What one host fetches for one of its VMs.
  const { vm, stageIn } = await fetched(fixture, placement.vms[63]!, 'stageIn');
  expect([vm.name, stageIn?.inputs.length]).toEqual(['node63', 100]);
});

it('tells a host of its own VMs alone, and of their present placement', async () => {
  await fixture.activities.registerHost(hostFacts('b', roomy));
  await fixture.sql(`UPDATE "Host" SET schedulable = false WHERE id = 'b'`);
  const task = await accept(fixture, owner);
  const placement = await fixture.activities.reserveTask(task);
  if (!placement.placed) throw new Error('not placed');
  const [vm] = placement.vms;
  expect((await fetched(fixture, vm!, 'run')).run).toMatchObject({ env: { BERTH_NODE: '0', BERTH_TASK: task } });
  expect(await failure(fetched(fixture, { ...vm!, host: 'b' as HostId }, 'vm'))).toMatchObject({ code: 'not-found' });
  expect(await failure(fetched(fixture, { ...vm!, id: 'vm_none' as VmId }, 'vm'))).toMatchObject({ code: 'not-found' });
  const stale = { ...vm!, generation: vm!.generation - 1 };
  expect(await failure(fetched(fixture, stale, 'vm'))).toMatchObject({ code: 'stale-generation' });
});

it('ends a task with the outputs that were stored of its nodes, and of no others', async () => {
  const task = await accept(fixture, owner, { nodes: 2, outputs: ['out/*'] });
  const stored = Array.from({ length: 9000 }, (_, n) => ({
    id: `file_out${n}`,
    ownerId: owner,
    name: `out/${String(n).padStart(120, '0')}`,
    state: 'ready' as const,
    sizeBytes: BigInt(n),
    sha256: hex64,
    taskId: task,
    node: n % 2,
  }));
  await fixture.ledger.file.createMany({ data: stored });
  const verdict = { state: 'failed', exitCode: 1, error: { code: 'command-failed', message: 'it failed' } } as const;
  const outcome = { ...verdict, outputs: [], storedNodes: [1], bytesIn: 0, bytesOut: 9000, vms: [], timeline: [] };
  await fixture.activities.finishTask(task, outcome, []);
  const { outputs } = await fixture.ledger.task.findUniqueOrThrow({ where: { id: task } });
  expect((outputs as unknown[]).length).toBe(4500);
  expect((outputs as unknown[])[0]).toEqual({ path: stored[1]!.name, node: 1, file: 'file_out1', sizeBytes: 1, sha256: hex64 });
  expect(await fixture.ledger.file.count({ where: { taskId: task } })).toBe(4500);
});

it('ends a task with what its last attempts have stored, not with what was gone when they looked', async () => {
  const task = await accept(fixture, owner, { nodes: 2, outputs: ['out/*'] });
  const stored = (['first', 'last', 'other', null] as const).map((attempt, n) => ({
    id: `file_attempt${n}`,
    ownerId: owner,
    name: `out/${attempt}`,
    state: 'ready' as const,
    sizeBytes: 1n,
    sha256: hex64,
    taskId: task,
    node: attempt === 'other' ? 1 : 0,
    attempt,
  }));
  await fixture.ledger.file.createMany({ data: stored });
  const verdict = { state: 'failed', exitCode: 1, error: { code: 'command-failed', message: 'it failed' } } as const;
  const report = { ...verdict, outputs: [], storedNodes: [0, 1], attempts: ['last', 'other'], bytesIn: 0, bytesOut: 3 };
  await fixture.activities.finishTask(task, { ...report, vms: [], timeline: [] }, []);
  const { outputs } = await fixture.ledger.task.findUniqueOrThrow({ where: { id: task } });
  // One without an attempt is of a host that tells none.
  expect((outputs as { path: string }[]).map(({ path }) => path)).toEqual(['out/last', 'out/null', 'out/other']);
  expect(await fixture.ledger.file.count({ where: { taskId: task } })).toBe(3);
});
