import { afterAll, beforeAll, expect, test } from 'vitest';
import { workflowId } from '../../model/temporal.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite();
});
afterAll(() => site.stop());

test('a task runs', async () => {
  const id = await site.submit();
  console.log(await site.ended(id));
  console.log(
    site.faults
      .callsOf(workflowId.task(id))
      .map((c) => `${c.name}#${c.nth}`)
      .join('\n'),
  );
  console.log(await site.ledger.task.findUnique({ where: { id } }));
  expect(site.hosts.flatMap((h) => h.leftovers())).toEqual([]);
});
