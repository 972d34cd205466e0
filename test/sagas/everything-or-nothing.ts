import { expect } from 'vitest';
import { taskEventTypes } from '../../model/events.ts';
import type { TaskId } from '../../model/ids.ts';
import { isTerminal } from '../../model/states.ts';
import type { FakeSite } from './fake-site.ts';

const completions: string[] = [taskEventTypes.succeeded, taskEventTypes.failed, taskEventTypes.cancelled];

/** The rows of a task in the ledger, for a comparison with later ones. */
export async function rowsOf(site: FakeSite, id: TaskId) {
  const task = await site.ledger.task.findUniqueOrThrow({ where: { id } });
  const vms = await site.ledger.vm.findMany({ where: { taskId: id }, orderBy: { node: 'asc' } });
  const events = await site.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } });
  return { task, vms, events };
}

/** What the hosts hold of a task's VMs. */
export function tracesOf(site: FakeSite, vmIds: string[]): string[] {
  return site.hosts.flatMap((host) =>
    host
      .leftovers()
      .filter((trace) => vmIds.some((vm) => trace.includes(vm)))
      .map((trace) => `${host.id}: ${trace}`),
  );
}

/**
 * A task that has ended, after any fault: one end, reported once, nothing left of its VMs, and its command ran at most
 * once.
 */
export async function expectEverythingOrNothing(site: FakeSite, id: TaskId): Promise<void> {
  const { task, vms, events } = await rowsOf(site, id);
  const vmIds = vms.map((vm) => vm.id);
  expect(isTerminal(task.state), `state ${task.state}`).toBe(true);
  expect(events.filter((event) => completions.includes(event.type)).map((event) => event.type)).toEqual([
    `berth.task.${task.state}`,
  ]);
  expect(events.filter((event) => event.type === taskEventTypes.accepted)).toHaveLength(1);
  expect(events.filter((event) => event.type === taskEventTypes.started).length).toBe(task.startedAt === null ? 0 : 1);
  expect(vms.map((vm) => vm.state)).toEqual(vms.map(() => 'removed'));
  expect(tracesOf(site, vmIds)).toEqual([]);
  for (const host of site.hosts) for (const vm of vmIds) expect(host.jobsStarted.get(vm) ?? 0).toBeLessThanOrEqual(1);
  if (task.state === 'succeeded') expect(task.outputs).toMatchObject(vms.map((_, node) => ({ path: 'out/result', node })));
}

/** When no task is left: no host has a trace of any, and the ledger has no reservation. */
export async function expectEmptySite(site: FakeSite): Promise<void> {
  for (const host of site.hosts) expect(host.leftovers(), host.id).toEqual([]);
  const rows = await site.ledger.host.findMany();
  expect(rows.map(({ usedVcpus, usedMemoryMiB, usedDiskMiB }) => usedVcpus + usedMemoryMiB + usedDiskMiB)).toEqual(
    rows.map(() => 0),
  );
}
