import { beforeEach, describe, expect, it } from 'vitest';
import { readBusyVms } from '../../ledger/load/read-busy-vms.ts';
import { readHostLoad, readLatestLoads, readVmLoad } from '../../ledger/load/read-loads.ts';
import { acceptLoadBatch } from '../../ledger/load/record-batch.ts';
import { rollUpLoads } from '../../ledger/load/roll-up.ts';
import { newId } from '../../model/ids.ts';
import { hostLoadFields, keptMs, type LoadBatch, valuesOf, vmLoadFields } from '../../model/load/load.ts';
import { addOwner, empty, useLedger } from './ledger-fixture.ts';

/** The series of load: what hosts report in batches, by samples, minutes and hours. */

const fixture = useLedger();
const hourMs = 3_600_000;
/** A full hour. */
const nowMs = Date.parse('2026-11-30T12:00:00Z');
let owner: string;
beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  for (const host of ['h1', 'h2'])
    await fixture.sql(
      `INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
       VALUES ($1, $1, 'site', 'up', 8, 8192, 65536, 'c', 'kvm', 'q', 'b', now())`,
      [host],
    );
});

const values = <F extends string>(fields: readonly F[], of: Partial<Record<F, number | null>>) =>
  fields.map((field) => of[field] ?? (field.endsWith('ressure') ? null : 0));

let batches = 0;
/** A batch of samples of ten seconds, the last of which ends now. */
function batchOf(uses: number[], vms: Record<string, number[]> = {}, id = `batch-${++batches}`): LoadBatch {
  return {
    id,
    processors: 2,
    memoryMiB: 8192,
    diskMiB: 65_536,
    processorUse: [10, 20],
    learned: {},
    samples: uses.map((use, at) => ({
      agoS: (uses.length - 1 - at) * 10,
      durationS: 10,
      host: values(hostLoadFields, { use, mostUse: use }),
      vms: Object.fromEntries(
        Object.entries(vms).map(([vm, cpus]) => [vm, values(vmLoadFields, { cpus: cpus[at]!, mostCpus: cpus[at]! })]),
      ),
    })),
  };
}

const accept = (host: string, batch: LoadBatch, atMs = nowMs) => acceptLoadBatch(fixture.ledger, host, batch, atMs);
const uses = async (host: string, fromMs: number, untilMs: number, stepMs: number) =>
  (await readHostLoad(fixture.ledger, host, { fromMs, untilMs, stepMs })).points.map(({ atMs, seconds, values: row }) => {
    const { use, mostUse } = valuesOf(hostLoadFields, row);
    return [(atMs - fromMs) / 1000, seconds, use, mostUse];
  });
const chunks = async () =>
  (
    await fixture.sql<{ detail: string; n: number }>(
      'SELECT detail::text, count(*)::int AS n FROM "LoadChunk" c GROUP BY c.detail ORDER BY c.detail',
    )
  ).map(({ detail, n }) => [detail, n]);

async function addVm(host: string, startedMs: number, of = owner): Promise<string> {
  const id = newId('vm');
  await fixture.sql(
    `INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, "hostId", "homeId", "startedAt")
     VALUES ($1, $2, $1, 1, 256, 512, 'running', $3, $3, $4)`,
    [id, of, host, new Date(startedMs)],
  );
  return id;
}

describe('a batch', () => {
  it('is one row, whose samples are where their hosts say they are; the same again changes nothing', async () => {
    const batch = batchOf([0.25, 0.75, 1]);
    await accept('h1', batch);
    await accept('h1', batch, nowMs + 5000);
    await accept('h2', batchOf([0.5], {}, batch.id));
    expect(await chunks()).toEqual([['sample', 2]]);
    expect(await uses('h1', nowMs - 30_000, nowMs, 10_000)).toEqual([
      [0, 10, 0.25, 0.25],
      [10, 10, 0.75, 0.75],
      [20, 10, 1, 1],
    ]);
    expect(await uses('h1', nowMs - 60_000, nowMs, 60_000)).toEqual([[0, 30, expect.closeTo(2 / 3, 4), 1]]);
  });

  it('of a host that is none, or was removed, is refused', async () => {
    await expect(accept('none', batchOf([1]))).rejects.toMatchObject({ code: 'not-found' });
    await fixture.sql(`UPDATE "Host" SET "removedAt" = now() WHERE id = 'h1'`);
    await expect(accept('h1', batchOf([1]))).rejects.toMatchObject({ code: 'not-found' });
  });

  it('has the last sample of each host, and of the VMs that are there by the ledger', async () => {
    const [mine, left] = [await addVm('h1', nowMs - hourMs), await addVm('h2', nowMs - hourMs)];
    const other = await addVm('h1', nowMs - hourMs, await addOwner(fixture, 'bob'));
    await accept('h1', batchOf([0.1, 0.2], { [mine]: [1, 2], [left]: [5, 5], [other]: [3, 3] }));
    await accept('h1', batchOf([0.9], {}), nowMs - 60_000);
    const [latest] = await readLatestLoads(fixture.ledger, ['h1'], nowMs);
    expect(latest).toMatchObject({ hostId: 'h1', atMs: nowMs, processors: 2, processorUse: [10, 20] });
    expect(valuesOf(hostLoadFields, latest!.host).use).toBe(0.2);
    const busy = async (of: string | null) =>
      (await readBusyVms(fixture.ledger, of, nowMs)).map(({ vm, values: row }) => [vm, row[0]]);
    expect(await busy(owner)).toEqual([[mine, 2]]);
    expect(await busy(null)).toEqual([
      [other, 3],
      [mine, 2],
    ]);
    expect(await readLatestLoads(fixture.ledger, null, nowMs + hourMs)).toEqual([]);
  });
});

it("a VM's series is of the hosts that it was on, each for that time alone", async () => {
  const vm = await addVm('h2', nowMs - hourMs);
  await fixture.sql(`INSERT INTO "VmStay" ("vmId", generation, "hostId", until) VALUES ($1, 0, 'h1', $2)`, [
    vm,
    new Date(nowMs - 20_000),
  ]);
  await accept('h1', batchOf([1, 1, 1, 1], { [vm]: [1, 1, 9, 9] }));
  await accept('h2', batchOf([1, 1, 1, 1], { [vm]: [8, 8, 2, 2] }));
  const read = (of: string | null) =>
    readVmLoad(fixture.ledger, of, vm, { fromMs: nowMs - 40_000, untilMs: nowMs, stepMs: 10_000 });
  expect((await read(owner)).points.map(({ values: row }) => row[0])).toEqual([1, 1, 2, 2]);
  await expect(read('owner_none')).rejects.toMatchObject({ code: 'not-found' });
});

describe('samples that are kept no longer', () => {
  /** An hour and a half of samples, ten seconds each, three a batch; in each minute the use rises from 0 to 0.5. */
  async function fill(vm: string): Promise<void> {
    const rows: unknown[][] = [];
    for (let endMs = nowMs - 1.5 * hourMs + 30_000; endMs <= nowMs; endMs += 30_000) {
      const second = new Date(endMs - 30_000).getUTCSeconds() === 30;
      const samples = [0, 0.1, 0.2].map((use) => use + (second ? 0.3 : 0));
      await accept('h1', batchOf(samples, { [vm]: samples }), endMs);
      rows.push([endMs]);
    }
  }

  it('become minutes and hours, by one of several processes; the series stays the same', async () => {
    const vm = await addVm('h1', nowMs - 2 * hourMs);
    await fill(vm);
    const [fromMs, untilMs] = [nowMs - 1.5 * hourMs, nowMs];
    const before = await uses('h1', fromMs, untilMs, 60_000);
    expect(before).toHaveLength(90);
    expect(before[3]).toEqual([180, 60, expect.closeTo(0.25, 4), 0.5]);
    expect(await rollUpLoads(fixture.ledger, nowMs)).toBe('done');
    // The hour from 11 o'clock on is kept; of that before it half is there.
    await Promise.all([1, 2, 3].map(() => rollUpLoads(fixture.ledger, nowMs + 1)));
    expect(await chunks()).toEqual([
      ['sample', 120],
      ['minute', 1],
      ['hour', 1],
    ]);
    expect(await uses('h1', fromMs, untilMs, 60_000)).toEqual(before);
    const hours = await uses('h1', nowMs - 2 * hourMs, untilMs, hourMs);
    expect(hours).toEqual([
      [0, 1800, expect.closeTo(0.25, 4), 0.5],
      [3600, 3600, expect.closeTo(0.25, 4), 0.5],
    ]);
    const ofVm = await readVmLoad(fixture.ledger, owner, vm, { fromMs, untilMs, stepMs: 60_000 });
    expect(ofVm.points).toHaveLength(90);
    expect(ofVm.points[3]).toMatchObject({ seconds: 60 });
  });

  it('that come late are an addition to their hour', async () => {
    const early = nowMs - 2 * hourMs;
    await accept('h1', batchOf([0.2]), early + 60_000);
    await rollUpLoads(fixture.ledger, nowMs);
    await accept('h1', batchOf([0.6]), early + 600_000);
    await rollUpLoads(fixture.ledger, nowMs);
    expect(await chunks()).toEqual([
      ['minute', 2],
      ['hour', 2],
    ]);
    expect(await uses('h1', early, nowMs, hourMs)).toEqual([[0, 20, expect.closeTo(0.4, 4), 0.6]]);
  });

  it('go: minutes after a day, hours after ninety', async () => {
    await accept('h1', batchOf([0.5]), nowMs);
    const at = (ms: number) => rollUpLoads(fixture.ledger, nowMs + ms).then(chunks);
    expect(await at(keptMs.sample + hourMs)).toEqual([
      ['minute', 1],
      ['hour', 1],
    ]);
    expect(await at(keptMs.minute + 2 * hourMs)).toEqual([['hour', 1]]);
    expect(await at(keptMs.hour)).toEqual([['hour', 1]]);
    expect(await at(keptMs.hour + 2 * hourMs)).toEqual([]);
  });
});
