import { expect, it } from 'vitest';
import { archiveExceptions } from '../../../infra/site/archive-exceptions.ts';
import { parseReachException } from '../../../model/network/reach-exception.ts';

const names: Record<string, string[]> = {
  'public.test': ['203.0.113.80'],
  'mirror.test': ['192.168.1.5', '203.0.113.81', '10.3.2.1'],
};
const resolve = async (name: string): Promise<string[]> => names[name] ?? [];

it('guests of a local site reach its package archives where these have private addresses, and nothing besides', async () => {
  expect(await archiveExceptions(['http://public.test/debian', 'http://gone.test/debian', 'file:/srv/debian'], resolve)).toEqual(
    [],
  );
  const found = await archiveExceptions(
    ['http://mirror.test/debian', 'http://mirror.test/debian-security', 'https://mirror.test:8443/', 'http://public.test/'],
    resolve,
  );
  expect(found).toEqual(['192.168.1.5:80/tcp', '10.3.2.1:80/tcp', '192.168.1.5:8443/tcp', '10.3.2.1:8443/tcp']);
  for (const text of found) parseReachException(text);
});
