import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { workflowId } from '../../model/temporal.ts';
import { isFull } from '../tier.ts';
import { askForHelp, openBalance, overload } from './balance-site.ts';
import { expectEmptySite } from './everything-or-nothing.ts';
import { addressOf, endless, type FakeSite, openFakeSite } from './fake-site.ts';
import { type MortalControls, openMortalControls } from './mortal-controls.ts';

/** The help protocol, whose control worker is killed by SIGKILL at each of its messages: no hold leaks, no VM moves twice. */

let site: FakeSite;
let controls: MortalControls;
beforeAll(async () => {
  site = await openFakeSite({
    hosts: 3,
    run: () => ({ exitCode: 0, durationMs: endless, log: 'done\n', files: { 'out/result': 'done\n' } }),
  });
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
  await site.stopWorker('control');
  controls = await openMortalControls(site);
});
afterAll(async () => {
  await site.stop();
  await controls.end();
});

const messages = ['openHelp', 'takeOffers', 'hasSettled', 'closeHelp'].flatMap((call) =>
  (['after', 'before'] as const).map((when) => ({ call, when })),
);
const deaths = isFull ? messages : messages.filter(({ call, when }) => call === 'takeOffers' && when === 'after');

test.each(deaths)(
  'killed $when $call',
  async (death) => {
    const host = site.hosts[0]!;
    const workflow = workflowId.help(host.id);
    await rm(join(controls.folder, workflow), { force: true });
    await controls.under({ [workflow]: death }, async () => {
      const { tasks, vms } = await overload(site, host);
      await openBalance(site, site.hosts.slice(1));
      await askForHelp(site, host.id);
      expect(controls.died(workflow)).toBe(true);
      await site.until(
        'its migrations have ended',
        async () => (await site.ledger.migration.count({ where: { vmId: { in: vms }, finishedAt: null } })) === 0,
      );
      const decisions = await site.ledger.balanceDecision.findMany({ where: { hostId: host.id }, include: { moves: true } });
      expect(decisions.map(({ state, problem, moves }) => [state, problem, moves.length])).toEqual([['ended', null, 1]]);
      expect(await site.ledger.moveHold.count()).toBe(0);
      expect(await site.ledger.migration.count({ where: { vmId: { in: vms } } })).toBe(1);
      for (const vm of vms) {
        const { hostId } = await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
        expect(site.hosts.filter((one) => one.domains.has(vm)).map(({ id }) => id)).toEqual([hostId]);
      }
      for (const task of tasks) {
        await site.cancel(task);
        await site.ended(task);
      }
    });
    await site.ledger.balanceDecision.deleteMany({ where: { hostId: host.id } });
    await expectEmptySite(site);
  },
  240_000,
);
