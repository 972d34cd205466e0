import { beforeEach, describe, expect, it } from 'vitest';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { findDrain } from '../../ledger/drains/read-drains.ts';
import { readDrainPlans } from '../../ledger/metrics.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, roomy, useLedger } from './ledger-fixture.ts';

/** The large reads aggregate JSON, which no type of Prisma covers. */
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

  it('in the VMs of a placement', async () => {
    const task = await accept(fixture, owner);
    const image = await fixture.ledger.image.findFirstOrThrow({ select: { id: true, parts: true } });
    await fixture.sql(`UPDATE "Image" SET parts = '{"disk": {"sha256": "x", "sizeBytes": 1}}'`);
    expect((await failure(fixture.activities.reserveTask(task))).name).toBe('ZodError');
    expect((await failure(fixture.activities.issueImageRef(image.id as ImageId, 'a' as HostId))).name).toBe('ZodError');
    expect(await states()).toEqual([{ state: 'pending' }]);
    await fixture.sql(`UPDATE "Image" SET parts = '${JSON.stringify(image.parts)}'`);
    expect(await fixture.activities.reserveTask(task)).toMatchObject({ placed: true });
  });

  it('in the VMs of a host that is drained, and in the plan of its drain', async () => {
    await fixture.activities.registerHost(hostFacts('b', roomy));
    await fixture.activities.reserveTask(await accept(fixture, owner));
    const setProblem = (to: string) => fixture.sql(`UPDATE "Vm" SET problem = ${to}`);
    await setProblem(`'{"code": "internal"}'`);
    const { hostId } = await fixture.ledger.vm.findFirstOrThrow({ select: { hostId: true } });
    const how = { strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'never', confidence: 0.99 } as const;
    const after = { returnAfterMs: null, returnVms: false, owner, reason: null, nowMs: fixture.now };
    const request = { ...how, ...after, host: hostId as HostId, deadlineMs: fixture.now + 3600_000 };
    const drain = () => fixture.ledger.$transaction((tx) => acceptDrain(tx, request));
    expect((await failure(drain())).name).toBe('ZodError');
    expect(await fixture.ledger.drain.count()).toBe(0);
    await setProblem('NULL');
    const id = await drain();
    expect((await findDrain(fixture.ledger, id)).plan).toMatchObject({ blockers: [] });
    await fixture.sql(`UPDATE "Drain" SET plan = plan - 'leaving'`);
    expect((await failure(findDrain(fixture.ledger, id))).name).toBe('ZodError');
    expect((await failure(readDrainPlans(fixture.ledger))).name).toBe('ZodError');
  });
});
