import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { hostNameservers } from '../../../../drivers/network/nameservers.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-resolvers-'));
afterAll(() => rmSync(folder, { recursive: true }));

function resolvers(own: string, upstream: string | null): Promise<string[]> {
  const [first, second] = [join(folder, 'resolv.conf'), join(folder, `upstream-${upstream?.length ?? 'none'}`)];
  writeFileSync(first, own);
  if (upstream !== null) writeFileSync(second, upstream);
  return hostNameservers(first, second);
}
const stub = 'nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n';

test('the resolvers of the host are those of its guests', async () => {
  expect(await resolvers('nameserver 192.0.2.1\nnameserver 192.0.2.2 # ours\n', 'nameserver 192.0.2.9\n')).toEqual([
    '192.0.2.1',
    '192.0.2.2',
  ]);
});

test("behind systemd-resolved's stub, those that it asks", async () => {
  expect(await resolvers(stub, 'nameserver 192.0.2.9\nnameserver fe80::1%2\n')).toEqual(['192.0.2.9']);
});

test('none where all are on a loopback, or there is no upstream', async () => {
  expect(await resolvers(stub, null)).toEqual([]);
  expect(await resolvers(stub, 'nameserver 127.0.0.1\nnameserver 0.0.0.0\n')).toEqual([]);
});
