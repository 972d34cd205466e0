import { beforeEach, describe, expect, it } from 'vitest';
import { accept, addImage, addOwner, empty, failure, hostFacts, roomy, useLedger } from './ledger-fixture.ts';

/** The two large reads aggregate JSON, which no type of Prisma covers. */
const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  await fixture.activities.registerHost(hostFacts('a', roomy));
});

const states = () => fixture.sql<{ state: string }>('SELECT state FROM "Vm"');

describe('a row of another shape stops the decision, and nothing is written', () => {
  it('in the queue', async () => {
    const task = await accept(fixture, owner);
    await fixture.sql(`UPDATE "Task" SET refusal = '{"hosts": "three", "failed": {}}'`);
    expect((await failure(fixture.activities.reserveTask(task))).name).toBe('ZodError');
    expect(await states()).toEqual([{ state: 'pending' }]);
    await fixture.sql('UPDATE "Task" SET refusal = NULL');
    expect(await fixture.activities.reserveTask(task)).toMatchObject({ placed: true });
  });

  it('in the site that a plan is made from', async () => {
    await fixture.activities.reserveTask(await accept(fixture, owner));
    await fixture.sql(`UPDATE "Lease" SET suspension = 'suspending', "leftS" = 60, operation = '{"fromS": 1, "untilS": 2}'`);
    const startAt = new Date(fixture.now + 600_000).toISOString();
    const reservation = accept(fixture, owner, { lease: { kind: 'reservation', startAt, durationS: 60 } });
    expect((await failure(reservation)).name).toBe('ZodError');
    expect(await fixture.sql('SELECT count(*)::int AS leases FROM "Lease"')).toEqual([{ leases: 1 }]);
    await fixture.sql(`UPDATE "Lease" SET operation = '{"fromS": 1, "untilS": 2, "vms": []}'`);
    expect((await fixture.activities.stepPlan()).leases).toBe(1);
  });
});
