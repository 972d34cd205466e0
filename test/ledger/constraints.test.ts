import { beforeEach, describe, expect, it } from 'vitest';
import { ledgerError } from '../../ledger/ledger-error.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import { addOwner, empty, failure, hex64, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
});

async function addHost(id: string, vcpus = 4, memoryMiB = 1024, diskMiB = 1000): Promise<void> {
  await fixture.sql(
    `INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
     VALUES ($1, $1, 'site', 'up', $2, $3, $4, '', 'qemu', '', '', now())`,
    [id, vcpus, memoryMiB, diskMiB],
  );
}

interface VmValues {
  state?: string;
  host?: string | null;
  home?: string | null;
  vcpus?: number;
  memoryMiB?: number;
  diskMiB?: number;
  overlayMiB?: number;
  address?: string | null;
}

async function addVm(values: VmValues): Promise<string> {
  const id = newId('vm');
  const { state = 'reserved', host = null, vcpus = 1, memoryMiB = 100, diskMiB = 10, overlayMiB = 0, address = null } = values;
  await fixture.sql(
    `INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", "overlayMiB", state, "hostId", "homeId", address, mac)
     VALUES ($1, $2, 'node0', $3, $4, $5, $6, $7::"VmState", $8, $9, $10, $10)`,
    [id, owner, vcpus, memoryMiB, diskMiB, overlayMiB, state, host, values.home === undefined ? host : values.home, address],
  );
  return id;
}

async function used(host: string): Promise<number[]> {
  const rows = await fixture.sql('SELECT "usedVcpus", "usedMemoryMiB", "usedDiskMiB" FROM "Host" WHERE id = $1', [host]);
  return Object.values(rows[0] ?? {});
}

describe('capacity', () => {
  beforeEach(async () => {
    await addHost('a');
    await addHost('b');
  });

  it('counts while a VM takes resources, and is free afterwards', async () => {
    const vm = await addVm({ state: 'pending' });
    expect(await used('a')).toEqual([0, 0, 0]);
    await fixture.sql(`UPDATE "Vm" SET state = 'reserved', "hostId" = 'a', "homeId" = 'a', generation = 1 WHERE id = $1`, [vm]);
    expect(await used('a')).toEqual([1, 100, 10]);
    await fixture.sql(`UPDATE "Vm" SET state = 'removing' WHERE id = $1`, [vm]);
    expect(await used('a')).toEqual([1, 100, 10]);
    await fixture.sql(`UPDATE "Vm" SET state = 'removed' WHERE id = $1`, [vm]);
    expect(await used('a')).toEqual([0, 0, 0]);
    await fixture.sql('DELETE FROM "Vm" WHERE id = $1', [vm]);
    expect(await used('a')).toEqual([0, 0, 0]);
  });

  it('counts processors and memory at the host, the disks at the home', async () => {
    const vm = await addVm({ host: 'a', home: 'b', overlayMiB: 500 });
    expect(await used('a')).toEqual([1, 100, 0]);
    expect(await used('b')).toEqual([0, 0, 510]);
    await fixture.sql(`UPDATE "Vm" SET "hostId" = 'b', generation = generation + 1 WHERE id = $1`, [vm]);
    expect(await used('a')).toEqual([0, 0, 0]);
    expect(await used('b')).toEqual([1, 100, 510]);
    await fixture.sql('DELETE FROM "Vm" WHERE id = $1', [vm]);
    expect(await used('b')).toEqual([0, 0, 0]);
  });

  it.each([
    ['vCPUs', { vcpus: 5 }],
    ['memory', { memoryMiB: 1025 }],
    ['disk', { diskMiB: 1001 }],
    ['disk, the overlay included', { diskMiB: 600, overlayMiB: 401 }],
  ])('refuses a VM that exceeds the %s', async (_, size) => {
    const error = await failure(addVm({ host: 'a', ...size }));
    expect(error.code).toBe('BE002');
    expect(await used('a')).toEqual([0, 0, 0]);
  });

  it('refuses the VM that exceeds it, also where the VM migrates or grows', async () => {
    await addVm({ host: 'a', memoryMiB: 1000 });
    const other = await addVm({ host: 'b', memoryMiB: 100 });
    const move = fixture.sql(`UPDATE "Vm" SET "hostId" = 'a', generation = 1 WHERE id = $1`, [other]);
    expect((await failure(move)).code).toBe('BE002');
    const grow = fixture.sql('UPDATE "Vm" SET "memoryMiB" = 1025 WHERE id = $1', [other]);
    expect((await failure(grow)).code).toBe('BE002');
  });

  it('cannot be oversubscribed by writing the sums', async () => {
    expect((await failure(fixture.sql(`UPDATE "Host" SET "usedVcpus" = 5 WHERE id = 'a'`))).code).toBe('BE002');
    expect((await failure(fixture.sql(`UPDATE "Host" SET "usedVcpus" = -1 WHERE id = 'a'`))).constraint).toBe('Host_used');
    const insert = fixture.sql(
      `INSERT INTO "Host" SELECT (jsonb_populate_record(h, '{"id": "c", "address": "c", "usedVcpus": 5}')).* FROM "Host" h WHERE id = 'a'`,
    );
    expect((await failure(insert)).code).toBe('BE002');
  });

  it('may shrink below its VMs, and then admits no VM until it fits', async () => {
    const first = await addVm({ host: 'a', memoryMiB: 600 });
    await addVm({ host: 'a', memoryMiB: 300 });
    await fixture.sql(`UPDATE "Host" SET "memoryMiB" = 500 WHERE id = 'a'`);
    expect((await failure(addVm({ host: 'a', memoryMiB: 1 }))).code).toBe('BE002');
    await fixture.sql(`UPDATE "Vm" SET state = 'removed' WHERE id = $1`, [first]);
    await addVm({ host: 'a', memoryMiB: 200 });
    expect(await used('a')).toEqual([2, 500, 20]);
  });
});

describe('a VM', () => {
  beforeEach(async () => {
    await addHost('a');
    await addHost('b');
  });

  it('has a host and a home as long as it takes resources', async () => {
    expect((await failure(addVm({ state: 'running', host: null }))).constraint).toBe('Vm_placed');
    expect((await failure(addVm({ state: 'running', host: 'a', home: null }))).constraint).toBe('Vm_placed');
    const vm = await addVm({ host: 'a' });
    const away = fixture.sql('UPDATE "Vm" SET "hostId" = NULL, generation = 1 WHERE id = $1', [vm]);
    expect((await failure(away)).constraint).toBe('Vm_placed');
  });

  it('keeps its host from being deleted', async () => {
    await addVm({ host: 'a' });
    expect((await failure(fixture.sql(`DELETE FROM "Host" WHERE id = 'a'`))).code).toMatch(/^23/);
  });

  it('has a generation that never falls and grows with each placement', async () => {
    const vm = await addVm({ host: 'a' });
    await fixture.sql('UPDATE "Vm" SET generation = 3 WHERE id = $1', [vm]);
    expect((await failure(fixture.sql('UPDATE "Vm" SET generation = 2 WHERE id = $1', [vm]))).code).toBe('BE004');
    expect((await failure(fixture.sql(`UPDATE "Vm" SET "hostId" = 'b' WHERE id = $1`, [vm]))).code).toBe('BE004');
    await fixture.sql(`UPDATE "Vm" SET "hostId" = 'b', generation = 4 WHERE id = $1`, [vm]);
  });

  it('has a new generation also when it is placed on the same host again', async () => {
    const vm = await addVm({ host: 'a' });
    await fixture.sql(`UPDATE "Vm" SET state = 'pending' WHERE id = $1`, [vm]);
    expect((await failure(fixture.sql(`UPDATE "Vm" SET state = 'reserved' WHERE id = $1`, [vm]))).code).toBe('BE004');
    await fixture.sql(`UPDATE "Vm" SET state = 'reserved', generation = generation + 1 WHERE id = $1`, [vm]);
  });

  it('shares its address and MAC with no other that takes resources', async () => {
    const first = await addVm({ host: 'a', address: '10.128.0.2' });
    expect((await failure(addVm({ host: 'b', address: '10.128.0.2' }))).constraint).toBe('Vm_address_live');
    const mac = fixture.sql(`UPDATE "Vm" SET mac = '10.128.0.2' WHERE id = $1`, [
      await addVm({ host: 'b', address: '10.128.0.3' }),
    ]);
    expect((await failure(mac)).constraint).toBe('Vm_mac_live');
    await fixture.sql(`UPDATE "Vm" SET state = 'removed' WHERE id = $1`, [first]);
    await addVm({ host: 'b', address: '10.128.0.2' });
  });
});

describe('files', () => {
  async function addFile(sizeBytes: number, of = owner): Promise<string> {
    const id = newId('file');
    await fixture.sql(
      `INSERT INTO "File" (id, "ownerId", name, state, "sizeBytes", sha256) VALUES ($1, $2, 'f', 'ready', $3, $4)`,
      [id, of, sizeBytes, hex64],
    );
    return id;
  }
  const kept = async (of = owner) =>
    Number((await fixture.sql('SELECT "usedBytes" FROM "Owner" WHERE id = $1', [of]))[0]?.usedBytes);

  it('count for their owner in every state', async () => {
    const file = await addFile(10);
    await addFile(5);
    expect(await kept()).toBe(15);
    await fixture.sql('UPDATE "File" SET "sizeBytes" = 20 WHERE id = $1', [file]);
    expect(await kept()).toBe(25);
    const bob = await addOwner(fixture, 'bob');
    await fixture.sql('UPDATE "File" SET "ownerId" = $2 WHERE id = $1', [file, bob]);
    expect([await kept(), await kept(bob)]).toEqual([5, 20]);
    await fixture.sql('DELETE FROM "File" WHERE id = $1', [file]);
    expect([await kept(), await kept(bob)]).toEqual([5, 0]);
  });

  it('are refused beyond the quota, also where many arrive at once', async () => {
    await fixture.sql('UPDATE "Owner" SET "maxBytes" = 100 WHERE id = $1', [owner]);
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => addFile(30)));
    const refused = results.filter((result) => result.status === 'rejected');
    expect(refused.map((result) => result.reason.code)).toEqual(Array(17).fill('BE003'));
    expect(await kept()).toBe(90);
  });

  it('may be deleted when the quota was lowered below them', async () => {
    const file = await addFile(50);
    await addFile(50);
    await fixture.sql('UPDATE "Owner" SET "maxBytes" = 10 WHERE id = $1', [owner]);
    await fixture.sql('DELETE FROM "File" WHERE id = $1', [file]);
    expect(await kept()).toBe(50);
    expect((await failure(addFile(1))).code).toBe('BE003');
  });

  it('have a digest when they are ready', async () => {
    const insert = `INSERT INTO "File" (id, "ownerId", name, state, "sizeBytes") VALUES ($1, $2, 'f', $3::"FileState", 0)`;
    await fixture.sql(insert, ['f1', owner, 'uploading']);
    expect((await failure(fixture.sql(insert, ['f2', owner, 'ready']))).constraint).toBe('File_digest');
  });

  it('raise quota-exceeded for the caller of Prisma', async () => {
    await fixture.sql('UPDATE "Owner" SET "maxBytes" = 1 WHERE id = $1', [owner]);
    const data = { id: newId('file'), ownerId: owner, name: 'f', state: 'ready' as const, sizeBytes: 2n, sha256: hex64 };
    const model = ledgerError(await failure(fixture.ledger.file.create({ data })));
    expect(model).toBeInstanceOf(BerthError);
    expect(model?.code).toBe('quota-exceeded');
    expect(model?.message).toContain('may keep 1 bytes; 2 would be kept');
    const raw = fixture.ledger.$executeRaw`
      INSERT INTO "File" (id, "ownerId", name, state, "sizeBytes") VALUES ('f', ${owner}, 'f', 'uploading', 2)`;
    expect(ledgerError(await failure(raw))?.code).toBe('quota-exceeded');
    expect(ledgerError(new Error('another'))).toBeUndefined();
  });
});

describe('networks and leases', () => {
  const network = (id: string, of: string, vni: number, cidr: string) =>
    fixture.sql(`INSERT INTO "Network" (id, "ownerId", vni, cidr, gateway) VALUES ($1, $2, $3, $4, '')`, [id, of, vni, cidr]);

  it('give no address to two owners', async () => {
    const bob = await addOwner(fixture, 'bob');
    await network('n1', owner, 1, '10.128.0.0/22');
    expect((await failure(network('n2', bob, 2, '10.128.2.0/24'))).constraint).toBe('Network_disjoint');
    expect((await failure(network('n3', bob, 1, '10.128.4.0/22'))).constraint).toBe('Network_vni_key');
    await network('n4', bob, 2, '10.128.4.0/22');
  });

  it('have a length, and a reservation its start', async () => {
    const lease = (kind: string, durationS: number) =>
      fixture.sql(`INSERT INTO "Lease" (id, "ownerId", kind, "durationS") VALUES ('l', $1, $2::"LeaseKind", $3)`, [
        owner,
        kind,
        durationS,
      ]);
    expect((await failure(lease('bestEffort', 0))).constraint).toBe('Lease_duration');
    expect((await failure(lease('reservation', 1))).constraint).toBe('Lease_start');
  });
});

describe('an event', () => {
  const add = (id: string) =>
    fixture.sql(`INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES ($1, 't', 's', $2, now(), '{}')`, [
      id,
      owner,
    ]);

  it('is never changed, deleted or written twice', async () => {
    await add('one');
    await fixture.sql('SELECT berth_number_events(10)');
    expect((await failure(fixture.sql(`UPDATE "Event" SET type = 'u'`))).code).toBe('BE005');
    expect((await failure(fixture.sql('DELETE FROM "Event"'))).code).toBe('BE005');
    expect((await failure(add('one'))).constraint).toBe('EventId_pkey');
    expect((await failure(fixture.sql('UPDATE "Event" SET seq = seq + 1'))).code).toBe('BE005');
  });

  it('is not changed by the transaction that writes it either', async () => {
    const client = await fixture.pool.connect();
    try {
      await client.query('BEGIN');
      await client.query(
        `INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES ('one', 't', 's', $1, now(), '{}')`,
        [owner],
      );
      expect((await failure(client.query(`UPDATE "Event" SET type = 'u', seq = 1`))).code).toBe('BE005');
      await client.query('ROLLBACK');
    } finally {
      client.release();
    }
  });

  it('gets its number from the ledger alone, without gaps', async () => {
    await add('one');
    await failure(add('one'));
    const numbered = fixture.sql(
      `INSERT INTO "Event" (seq, id, type, subject, "ownerId", time, data) VALUES (99, 'two', 't', 's', $1, now(), '{}')`,
      [owner],
    );
    expect((await failure(numbered)).code).toBe('BE005');
    await add('two');
    await fixture.sql('SELECT berth_number_events(10)');
    const rows = await fixture.sql('SELECT id, seq::int AS seq FROM "Event" ORDER BY seq');
    expect(rows).toEqual([
      { id: 'one', seq: 1 },
      { id: 'two', seq: 2 },
    ]);
  });
});
