import { beforeEach, expect, test } from 'vitest';
import { acceptDrain } from '../../prisma/accept-drain.ts';
import { accept, addImage, addOwner, empty, hostFacts, roomy, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  for (const id of ['host-a', 'host-b']) await fixture.activities.hostArrived(hostFacts(id, roomy));
});

test('a template that is being made on a host that is drained is to be ended, and no other is begun there', async () => {
  const placement = await fixture.activities.reserveTask(await accept(fixture, owner));
  if (!placement.placed) throw new Error('there is no room for a task');
  const like = placement.vms[0]!;
  const place = await fixture.activities.reserveTemplate(like);
  if (place.kind !== 'reserved') throw new Error(`a template is ${place.kind}`);
  const nowMs = fixture.now;
  const how = { strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'never', confidence: 0.99 } as const;
  const id = await fixture.ledger.$transaction((tx) =>
    acceptDrain(tx, {
      ...how,
      host: like.host,
      deadlineMs: nowMs + 3600_000,
      returnAfterMs: null,
      bringBack: false,
      owner,
      reason: null,
      nowMs,
    }),
  );
  expect(await fixture.activities.stepDrain(id)).toMatchObject({ state: 'waiting', endTemplates: true, wake: ['planner'] });
  await fixture.activities.releaseVms([place.vm.id]);
  expect(await fixture.activities.stepDrain(id)).toMatchObject({ endTemplates: false, wake: [] });
  expect(await fixture.activities.reserveTemplate(like)).toMatchObject({ kind: 'waits' });
});
