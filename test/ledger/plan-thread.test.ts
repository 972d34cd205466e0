import { execFileSync } from 'node:child_process';
import { beforeEach, expect, test } from 'vitest';
import type { SiteRead } from '../../ledger/leases/plan/ledger-site.ts';
import { makePlan } from '../../ledger/leases/plan/plan-kinds.ts';
import { inPlan, planInThread } from '../../ledger/leases/plan/plan-thread.ts';
import { readSite } from '../../ledger/leases/plan/read-site.ts';
import { accept, addImage, addOwner, empty, hostFacts, useLedger } from './ledger-fixture.ts';

/** Large sites are planned in a thread. What it answers is what this process would plan, and nothing depends on its life. */

const fixture = useLedger();

beforeEach(async () => {
  await empty(fixture);
  const owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 1);
  for (const id of ['host-a', 'host-b'])
    await fixture.activities.registerHost(hostFacts(id, { vcpus: 2, memoryMiB: 4096, diskMiB: 10_000 }));
  const startAt = new Date(fixture.now + 600_000).toISOString();
  await accept(fixture, owner, { nodes: 2, lease: { kind: 'reservation', startAt, durationS: 300 } });
  await accept(fixture, owner, { lease: { kind: 'bestEffort', durationS: 60 } });
});

const now = () => fixture.now / 1000;

test('a thread plans what its process would', async () => {
  const read = await readSite(fixture.ledger, { hosts: [], others: 'ending' });
  const inline = makePlan('step', read, now());
  expect(inline.decision.starts).toHaveLength(1);
  expect(await planInThread('step', read, now())).toEqual(inline);
  expect(await planInThread('schedule', read, fixture.now)).toEqual(makePlan('schedule', read, fixture.now));
});

test('what a thread cannot plan is an error, and the next plan is made', async () => {
  const read = await readSite(fixture.ledger, { hosts: [], others: 'ending' });
  const broken = { ...read, row: { hosts: null } };
  await expect(planInThread('step', broken, now())).rejects.toMatchObject({ code: 'internal' });
  expect((await planInThread('step', read, now())).decision.starts).toHaveLength(1);
});

test('a thread keeps no process alive that has nothing else to do', () => {
  const file = new URL('../../ledger/leases/plan/plan-thread.ts', import.meta.url).href;
  const read = "{ row: { hosts: null }, scope: { hosts: [], others: 'ending' } }";
  const script = `const { planInThread } = await import('${file}'); await planInThread('step', ${read}, 1).catch(() => console.log('asked'));`;
  const said = execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 30_000 });
  expect(said).toBe('asked\n');
});

test('the plan of a large site leaves the event loop to others', async () => {
  const read = await readSite(fixture.ledger, { hosts: [], others: 'ending' });
  const vms = 40_000;
  const column = (value: string) => Array<string>(vms).fill(value).join(' ');
  const running = {
    host: column('host-a'),
    vcpus: column('0'),
    memoryMiB: column('0'),
    diskMiB: column('0'),
    runFromS: Array.from({ length: vms }, (_, i) => now() - i).join(' '),
    leftS: column('100000'),
    preemptible: column('1'),
  };
  const large: SiteRead = { ...read, row: { ...(read.row as object), running } };
  expect((await inPlan('step', large, now())).running).toBe(vms);
  let turns = 0;
  const loop = setInterval(() => {
    turns += 1;
  }, 1);
  await inPlan('step', large, now());
  clearInterval(loop);
  // A plan in this thread would leave none.
  expect(turns).toBeGreaterThan(3);
});
