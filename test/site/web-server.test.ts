import { expect, test } from 'vitest';
import { move, moveOver } from './moves.ts';
import { onSharedSite } from './shared-site.ts';
import { expectNothingLeft, type TestSite } from './the-site.ts';
import { answered, serving, stopServing } from './web-load.ts';

let here: TestSite;
onSharedSite((site) => {
  here = site;
});

/** Each move is like the one before, but from a host that has run the VM before. */
const moves = 5;

test('a web server under a constant rate of requests from another host moves, and answers every one', async () => {
  const task = await serving(here);
  const { id, vms, hosts } = task;
  expect(hosts[0]).not.toBe(hosts[1]);
  await expect.poll(async () => (await answered(here, id)).length, { timeout: 180_000 }).toBeGreaterThan(35);
  const downtimes: (number | null)[] = [];
  for (let times = 0; times < moves; times += 1) {
    const migration = await moveOver(here, (await move(here, vms[0]!)).id);
    expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', error: null });
    downtimes.push(migration.downtimeMs);
  }
  const lines = await stopServing(here, task);
  expect(lines).toEqual(Array.from({ length: lines.length }, (_, index) => String(index + 1)));
  console.log(`${lines.length} requests answered; the guest stood still for ${downtimes.join(', ')} ms`);
  await expectNothingLeft(here);
});
