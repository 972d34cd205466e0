import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { changeBalancer } from '../../ledger/load/balancer.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { askForHelp, type Overloaded, openBalance, overload, overloaded } from './balance-site.ts';
import { expectEmptySite, expectEverythingOrNothing } from './everything-or-nothing.ts';
import { addressOf, endless, type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyRun } from './faults.ts';

/** The help protocol between hosts: whatever fails, no capacity stays held, and no VM is moved twice or is in two places. */

const side = 3;
vi.setConfig({ maxConcurrency: side, testTimeout: 240_000 });

let site: FakeSite;
/** Hosts that nothing is running on. */
let free: FakeHost[];
beforeAll(async () => {
  site = await openFakeSite({
    hosts: 2 * side,
    run: () => ({ exitCode: 0, durationMs: endless, log: 'done\n', files: { 'out/result': 'done\n' } }),
  });
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
  free = site.hosts.slice(0, side);
  await openBalance(site, site.hosts.slice(side));
  // It starts migrations that were accepted, and whose workflow was ended before it had started them.
  await site.client.workflow.start(workflowType.housekeeping, {
    taskQueue: controlQueue,
    workflowId: workflowId.housekeeping(),
    args: [0.05],
  });
});
afterAll(() => site.stop());

async function overloadOne(): Promise<Overloaded> {
  const host = free.shift();
  if (host === undefined) throw new Error('BUG: more tests at a time than hosts');
  return overload(site, host);
}

const settled = async ({ vms }: Overloaded): Promise<boolean> =>
  (await site.ledger.migration.count({ where: { vmId: { in: vms }, finishedAt: null } })) === 0;

/** Each VM is where the ledger says, and nowhere else; nothing is held; hosts take what their VMs take. */
async function expectWhole(run: Overloaded): Promise<void> {
  await site.until('its migrations have ended', () => settled(run));
  for (const vm of run.vms) {
    const row = await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
    const at = site.hosts.filter((one) => one.domains.has(vm)).map(({ id }) => id);
    expect([row.state, at]).toEqual(['running', [row.hostId]]);
    expect(await site.ledger.migration.count({ where: { vmId: vm } })).toBeLessThanOrEqual(1);
  }
  const decisions = await site.ledger.balanceDecision.findMany({
    where: { hostId: run.host.id },
    select: { id: true, endedAt: true },
  });
  expect(decisions.filter(({ endedAt }) => endedAt === null)).toEqual([]);
  expect(await site.ledger.moveHold.count({ where: { decisionId: { in: decisions.map(({ id }) => id) } } })).toBe(0);
  for (const one of site.hosts) expect(one.violations).toEqual([]);
}

async function finish({ host, tasks }: Overloaded): Promise<void> {
  for (const task of tasks) {
    await site.cancel(task);
    await site.ended(task);
    await expectEverythingOrNothing(site, task);
  }
  await site.ledger.balanceDecision.deleteMany({ where: { hostId: host.id } });
  free.push(host);
}

const call = (name: string, nth = 1): Call => ({ name, nth });
const calls: Call[] = [call('openHelp'), call('takeOffers'), call('hasSettled'), call('closeHelp')];

test('one VM of an overloaded host moves to an idle one, and the decision says so', async () => {
  const run = await overloadOne();
  await askForHelp(site, run.host.id);
  await expectWhole(run);
  const [moved, ...others] = await site.ledger.vm.findMany({ where: { id: { in: run.vms }, hostId: { not: run.host.id } } });
  expect(others).toEqual([]);
  expect(site.hosts.slice(side).map(({ id }) => id)).toContain(moved?.hostId);
  const decision = await site.ledger.balanceDecision.findFirstOrThrow({
    where: { hostId: run.host.id },
    include: { moves: true },
  });
  expect(decision).toMatchObject({ state: 'ended', problem: null, moves: [{ vmId: moved?.id, toId: moved?.hostId }] });
  const types = (await site.ledger.event.findMany({ where: { subject: run.host.id } })).map(({ type }) => type);
  expect(types).toEqual(['berth.host.relieved']);
  const names = new Set(site.faults.callsOf(workflowId.help(run.host.id)).map(({ name }) => name));
  expect([...names].sort()).toEqual(calls.map(({ name }) => name).sort());
  await finish(run);
});

test.concurrent.each(everyRun(calls))('$at: $what', async ({ calls: struck, fault }) => {
  const run = await overloadOne();
  const id = workflowId.help(run.host.id);
  site.faults.forget(id);
  site.faults.plan(id, struck, fault);
  try {
    // One that is refused for good, or cancelled, has undone what it had begun.
    await askForHelp(site, run.host.id).catch((error: unknown) => {
      if (!/^(refused|cancelled)/.test(fault)) throw error;
    });
    expect(site.faults.fired(id)).toBe(true);
    if (fault === 'late') await site.faults.runLate(id);
    await expectWhole(run);
  } finally {
    await finish(run);
  }
});

test('a workflow that is terminated holds nothing for longer than its offers last, and the next request is answered', async () => {
  const run = await overloadOne();
  await site.ledgerSteps().openHelp('left', run.host.id, overloaded);
  expect(await site.ledger.moveHold.count({ where: { decisionId: 'left' } })).toBeGreaterThan(0);
  await site.ledger.moveHold.updateMany({ where: { decisionId: 'left' }, data: { expiresAt: new Date(Date.now() - 1000) } });
  await site.ledger.balanceDecision.update({ where: { id: 'left' }, data: { endedAt: new Date() } });
  await askForHelp(site, run.host.id);
  await expectWhole(run);
  expect(await site.ledger.migration.count({ where: { vmId: { in: run.vms } } })).toBe(1);
  await finish(run);
});

test('a balancer that is switched off moves nothing', async () => {
  const run = await overloadOne();
  await changeBalancer(site.ledger, { mode: 'off' });
  await askForHelp(site, run.host.id);
  await changeBalancer(site.ledger, { mode: 'auto' });
  expect(await site.ledger.migration.count({ where: { vmId: { in: run.vms } } })).toBe(0);
  await expectWhole(run);
  await finish(run);
});

test('afterwards the site is empty', () => expectEmptySite(site));
