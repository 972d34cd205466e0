import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { addOwner, seedOwners } from '../../infra/site/seed.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { hashApiKey } from '../../model/api-key.ts';
import { startPostgres } from '../services/postgres.ts';

let ledger: Ledger;
let stop: () => Promise<void>;
let keys: string;
beforeAll(async () => {
  const database = await startPostgres();
  stop = database.stop;
  ledger = openLedger(database.url);
  keys = await mkdtemp(join(tmpdir(), 'berth-keys-'));
});
afterAll(async () => {
  await ledger.$disconnect();
  await stop();
  await rm(keys, { recursive: true });
});

test('a site has an operator and a client, with keys that stay the same however often it starts', async () => {
  const files = await seedOwners(ledger, keys);
  const read = async () => Promise.all(Object.values(files).map((file) => readFile(file, 'utf8')));
  const first = await read();
  await seedOwners(ledger, keys);
  expect(await read()).toEqual(first);
  expect(await ledger.apiKey.count()).toBe(2);
  for (const file of Object.values(files)) expect((await stat(file)).mode & 0o777).toBe(0o600);
  const operator = await ledger.apiKey.findUniqueOrThrow({
    where: { hash: hashApiKey(first[0]!.trim()) },
    include: { owner: true },
  });
  expect(operator).toMatchObject({ role: 'operator', owner: { name: 'operator' } });
});

test('an owner may have several keys, and the ledger holds none of them', async () => {
  const [one, other] = [await addOwner(ledger, 'alice', 'client'), await addOwner(ledger, 'alice', 'client')];
  expect(one).toMatch(/^berth_.{32,}$/);
  expect(one).not.toBe(other);
  const owner = await ledger.owner.findUniqueOrThrow({ where: { name: 'alice' }, include: { keys: true } });
  expect(owner.keys.map(({ hash }) => hash).sort()).toEqual([one, other].map(hashApiKey).sort());
  expect(JSON.stringify(owner, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value))).not.toContain(one);
});
