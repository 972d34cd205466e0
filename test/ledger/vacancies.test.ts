import { beforeEach, expect, test } from 'vitest';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { acceptReservation } from '../../ledger/reservations/accept-reservation.ts';
import type { DrainId } from '../../model/drain.ts';
import type { TaskId } from '../../model/ids.ts';
import type { ReservationId } from '../../model/reservation.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
const hosts = ['host-a', 'host-b'];

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  for (const id of hosts) await fixture.activities.registerHost(hostFacts(id, { vcpus: 2, memoryMiB: 4096, diskMiB: 10_000 }));
});

/** A lease that fills this number of hosts, from a moment on. */
const promise = (inS: number, durationS: number, nodes = 1): Promise<TaskId> =>
  accept(fixture, owner, {
    nodes,
    resources: { vcpus: 2, memoryMiB: 1024, diskMiB: 512 },
    lease: { kind: 'reservation', startAt: new Date(fixture.now + inS * 1000).toISOString(), durationS },
  });
const plannedHosts = async (id: TaskId): Promise<string[]> =>
  (await fixture.ledger.task.findUniqueOrThrow({ where: { id }, include: { lease: true } })).lease.plannedHosts;

const drain = (host: string, inS: number): Promise<DrainId> =>
  fixture.ledger.$transaction((tx) =>
    acceptDrain(tx, {
      host,
      deadlineMs: fixture.now + inS * 1000,
      strategy: 'auto',
      mode: 'auto',
      moveDisks: false,
      suspendInPlace: 'never' as const,
      confidence: 0.99,
      returnAfterMs: null,
      returnVms: false,
      owner,
      reason: null,
      nowMs: fixture.now,
    }),
  );
const hold = (host: string, inS: number, durationS: number): Promise<ReservationId> =>
  fixture.ledger.$transaction((tx) =>
    acceptReservation(tx, {
      wanted: { hosts: [host] },
      startAtMs: fixture.now + inS * 1000,
      endAtMs: fixture.now + (inS + durationS) * 1000,
      purpose: 'burn-in',
      returnVms: false,
      owner,
      nowMs: fixture.now,
    }),
  );
const vacancyOf = async (id: string) => {
  const { vacantFrom, vacantUntil } = await fixture.ledger.host.findUniqueOrThrow({ where: { id } });
  return [vacantFrom, vacantUntil].map((at) => (at === null ? null : (at.getTime() - fixture.now) / 1000));
};

test('a promise on a host that will be emptied is assigned another one', async () => {
  const id = await promise(600, 300);
  const [first] = await plannedHosts(id);
  await drain(first!, 3600);
  expect(await plannedHosts(id)).toEqual(hosts.filter((host) => host !== first));
});

test('a drain that would break a promise is refused, names it, and closes nothing', async () => {
  const id = await promise(600, 300, 2);
  const before = await plannedHosts(id);
  const { leaseId } = await fixture.ledger.task.findUniqueOrThrow({ where: { id } });
  const refused = await failure(drain('host-a', 3600));
  expect(refused).toMatchObject({ code: 'drain-impossible', message: expect.stringContaining(leaseId) });
  expect(await fixture.ledger.host.count({ where: { schedulable: true } })).toBe(2);
  expect(await plannedHosts(id)).toEqual(before);
});

test('running work with a promise migrates, and does not block a drain', async () => {
  const id = await promise(60, 3600);
  fixture.now += 60_000;
  await fixture.activities.stepPlan();
  for (const [state, vm] of [['stagingIn'], ['starting', 'creating'], ['running', 'running']] as const)
    await fixture.activities.advanceTask(id, state, [], vm);
  const { hostId } = await fixture.ledger.vm.findFirstOrThrow({ where: { taskId: id } });
  await drain(hostId!, 300);
  const other = hosts.find((host) => host !== hostId)!;
  expect(await fixture.ledger.drain.findFirstOrThrow()).toMatchObject({ plan: { moves: [{ to: other }] } });
  // The capacity that it will use there is not promised to others.
  expect(await failure(promise(900, 300))).toMatchObject({ code: 'lease-refused' });
});

test('the plan knows when a host is held: it promises the host before and after that time only', async () => {
  const id = await hold('host-a', 600, 600);
  expect(await vacancyOf('host-a')).toEqual([600, 1200]);
  expect(await failure(promise(700, 100, 2))).toMatchObject({ code: 'lease-refused' });
  expect(await plannedHosts(await promise(700, 100))).toEqual(['host-b']);
  await promise(300, 100, 2);
  await promise(1300, 100, 2);
  await fixture.ledger.hostHold.updateMany({ where: { reservationId: id }, data: { released: true } });
  expect(await vacancyOf('host-a')).toEqual([null, null]);
});

test('of several holds the plan knows the next, and none of a host that is being emptied', async () => {
  const later = await hold('host-a', 7200, 600);
  const next = await hold('host-a', 3600, 600);
  expect(await vacancyOf('host-a')).toEqual([3600, 4200]);
  const id = await drain('host-a', 3600);
  await fixture.ledger.hostHold.updateMany({ where: { reservationId: next }, data: { drainId: id } });
  expect(await vacancyOf('host-a')).toEqual([7200, 7800]);
  await fixture.ledger.hostHold.deleteMany({ where: { reservationId: later } });
  expect(await vacancyOf('host-a')).toEqual([null, null]);
});

test('a promise is reassigned from a reserved host, and one that cannot be refuses the reservation', async () => {
  const one = await promise(600, 300);
  const [first] = await plannedHosts(one);
  await hold(first!, 700, 600);
  expect(await plannedHosts(one)).not.toContain(first);
  await promise(2000, 300, 2);
  expect(await failure(hold('host-b', 2100, 600))).toMatchObject({ code: 'drain-impossible' });
  expect(await vacancyOf('host-b')).toEqual([null, null]);
});
