import { beforeEach, expect, it } from 'vitest';
import { readMachines } from '../../ledger/hosts/read-machines.ts';
import { empty, useLedger } from './ledger-fixture.ts';

/** The list of the site's machines, which each host asks for every ten seconds, is kept as they come and go. */

const fixture = useLedger();
beforeEach(() => empty(fixture));

const addHost = (n: number) =>
  `INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
   VALUES ('h${n}', '192.0.2.${n}', 'site', 'up', 1, 1, 1, 'c', 'kvm', 'q', 'b', now())`;
const addEdge = (n: number) => `INSERT INTO "Edge" (id, address, "seenAt") VALUES ('e${n}', '198.51.100.${n}', now())`;

const listed = async () => ((await readMachines(fixture.ledger, 'h1', 'none')).addresses ?? []).toSorted();
const there = async () =>
  (await fixture.sql<{ address: string }>('SELECT address FROM "Host" UNION ALL SELECT address FROM "Edge"'))
    .map(({ address }) => address)
    .toSorted();

/** In a transaction that goes on for a while after it has changed them. */
async function slowly(statement: string): Promise<void> {
  const client = await fixture.pool.connect();
  try {
    await client.query('BEGIN');
    await client.query(statement);
    await client.query('SELECT pg_sleep(random() * 0.01)');
    await client.query('COMMIT');
  } finally {
    client.release();
  }
}

it('has each host and edge, though they register at once; a known version is not told again', async () => {
  await Promise.all(Array.from({ length: 30 }, (_, i) => slowly(i % 5 === 4 ? addEdge(i + 1) : addHost(i + 1))));
  expect(await listed()).toEqual(await there());
  expect(await there()).toHaveLength(30);
  const { version } = await readMachines(fixture.ledger, 'h1', 'none');
  expect(await readMachines(fixture.ledger, 'h1', version)).toMatchObject({ version, addresses: null, here: '192.0.2.1' });
});

it('follows addresses that change, and machines that go', async () => {
  for (const statement of [addHost(1), addHost(2), addEdge(1), addEdge(2)]) await fixture.sql(statement);
  const before = await readMachines(fixture.ledger, 'h1', 'none');
  // As a registration does, where nothing has changed.
  await fixture.sql(`UPDATE "Host" SET address = address, "seenAt" = now()`);
  expect((await readMachines(fixture.ledger, 'h1', 'none')).version).toBe(before.version);
  for (const change of [
    `UPDATE "Host" SET address = '192.0.2.77' WHERE id = 'h2'`,
    `UPDATE "Edge" SET address = '198.51.100.77' WHERE id = 'e1'`,
    `DELETE FROM "Edge" WHERE id = 'e2'`,
  ]) {
    const { version } = await readMachines(fixture.ledger, 'h1', 'none');
    await fixture.sql(change);
    expect((await readMachines(fixture.ledger, 'h1', version)).addresses?.toSorted(), change).toEqual(await there());
  }
});
