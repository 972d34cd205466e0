import { expect } from 'vitest';
import type { FakeRun } from '../../drivers/fake/host.ts';
import type { TaskId } from '../../model/ids.ts';
import { expectEmptySite, rowsOf } from './everything-or-nothing.ts';
import { addressOf, endless, type FakeSite, openFakeSite } from './fake-site.ts';

const done: FakeRun = { exitCode: 0, durationMs: 50, log: 'done\n', files: { 'out/result': 'done\n' } };
export const week = 7 * 24 * 3600;
/** In the time of the fakes, a fiftieth of it in real time. */
const long = { ...done, durationMs: 600_000 };

/** Two hosts, each with capacity for one VM, and a planner whose costs of leases were measured. */
export async function openLeaseSite(): Promise<FakeSite> {
  const site = await openFakeSite({
    hosts: 2,
    capacity: { vcpus: 1, memoryMiB: 65_536, diskMiB: 262_144 },
    run: (_, [program]) => {
      if (program === 'endless') return { ...done, durationMs: endless };
      if (program === 'checkpoints') return { ...done, durationMs: endless, early: { 'out/checkpoint': 'half of it' } };
      return program === 'long' ? long : done;
    },
  });
  await site.startPlanner();
  // The costs of leases are measured with these tasks, and are lower than their initial estimates.
  for (let n = 0; n < 3; n += 1) expect(await site.ended(await site.submit())).toBe('succeeded');
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
  return site;
}

export async function closeLeaseSite(site: FakeSite): Promise<void> {
  await expectEmptySite(site);
  await site.stop();
}

export const at = (inS: number): string => new Date(Date.now() + inS * 1000).toISOString();

export const reserve = (site: FakeSite, inS: number, durationS: number, more: object = {}): Promise<TaskId> =>
  site.submit({ nodes: 2, lease: { kind: 'reservation', startAt: at(inS), durationS }, ...more });

export async function leaseOf(site: FakeSite, id: TaskId) {
  const { lease } = await site.ledger.task.findUniqueOrThrow({ where: { id }, include: { lease: true } });
  return lease;
}

export const untilTask = (site: FakeSite, id: TaskId, state: string): Promise<void> =>
  site.until(`${id} is ${state}`, async () => (await rowsOf(site, id)).task.state === state);

/** The delay between the promised start of a task and the start of its command. */
export async function lateMs(site: FakeSite, id: TaskId): Promise<number> {
  const { task } = await rowsOf(site, id);
  return task.startedAt!.getTime() - (await leaseOf(site, id)).startAt!.getTime();
}
