import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FetchRequest } from '../../../../drivers/ports/input-fetcher.ts';
import { openInputFetcher } from '../../../../drivers/transfer/input-fetcher.ts';
import type { ResolveHost } from '../../../../drivers/transfer/pinned-lookup.ts';
import { isPublicAddress } from '../../../../model/network/public-address.ts';
import { codeOf } from '../../../contract/suite.ts';

let folder: string;
let server: Server;
let base: string;
let requested: string[] = [];
const never = new AbortController().signal;

const routes: Record<string, RequestListener> = {
  '/file': (_, response) => response.end('content'),
  '/unannounced': (_, response) => {
    response.write('x'.repeat(600));
    response.end('x'.repeat(600));
  },
  '/slow': (_, response) => void response.write('x'),
  '/cut': (_, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('half', () => response.destroy());
  },
  '/inward': (_, response) => response.writeHead(302, { location: 'http://inward.test/file' }).end(),
  '/onward': (_, response) => response.writeHead(302, { location: '/file' }).end(),
  '/loop': (_, response) => response.writeHead(302, { location: '/loop' }).end(),
  '/scheme': (_, response) => response.writeHead(302, { location: 'file:///etc/passwd' }).end(),
};

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'berth-fetch-'));
  server = createServer((request, response) => {
    requested.push(`${request.headers.host} ${request.url}`);
    const route = routes[request.url ?? ''];
    if (route === undefined) response.writeHead(404).end();
    else route(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true });
});

const order = (more: Partial<FetchRequest>): FetchRequest => ({
  url: `${base}/file`,
  source: 'outside',
  sizeBytes: null,
  sha256: null,
  destination: join(folder, 'in', 'file'),
  limitBytes: 1000,
  limitSeconds: 5,
  allowInternal: true,
  ...more,
});
const fetcher = (resolve?: ResolveHost) => openInputFetcher(new Agent(), resolve);
const code = (more: Partial<FetchRequest>, resolve?: ResolveHost): Promise<string> =>
  codeOf(fetcher(resolve).fetch(order(more), never));

describe('an input from the outside', () => {
  it('is stored with its size and digest', async () => {
    const sha256 = createHash('sha256').update('content').digest('hex');
    expect(await fetcher().fetch(order({ sha256 }), never)).toEqual({ sizeBytes: 7, sha256 });
    expect(readFileSync(join(folder, 'in', 'file'), 'utf8')).toBe('content');
    expect(await code({ url: `${base}/onward` })).toBe('fine');
  });

  it('has the permissions that are asked for, whatever the umask', async () => {
    const modeOf = () => statSync(join(folder, 'in', 'file')).mode & 0o7777;
    await fetcher().fetch(order({ mode: 0o777 }), never);
    expect(modeOf()).toBe(0o777);
    await fetcher().fetch(order({ mode: 0o600 }), never);
    expect(modeOf()).toBe(0o600);
  });

  it('that differs from its declaration leaves nothing', async () => {
    expect(await code({ sha256: '0'.repeat(64) })).toBe('digest-mismatch');
    expect(await code({ url: `${base}/nowhere` })).toBe('input-unavailable');
    expect(await code({ url: `${base}/cut` })).toBe('input-unavailable');
    expect(await code({ url: `${base}/unannounced` })).toBe('inputs-too-large');
    expect(await code({ url: `${base}/slow`, limitSeconds: 0.2 })).toBe('input-unavailable');
    expect(await code({ url: `${base}/loop` })).toBe('input-unavailable');
    expect(await code({ url: `${base}/scheme` })).toBe('input-unavailable');
    expect(existsSync(join(folder, 'in', 'file'))).toBe(false);
  });

  it('is not fetched from an internal address: by name, by number, or after a redirect', async () => {
    const port = new URL(base).port;
    requested = [];
    expect(await code({ allowInternal: false })).toBe('address-refused');
    expect(await code({ allowInternal: false, url: 'http://[::ffff:127.0.0.1]/' })).toBe('address-refused');
    expect(await code({ allowInternal: false, url: 'http://0x7f.1/' })).toBe('address-refused');
    const internal: ResolveHost = async () => [{ address: '169.254.169.254', family: 4 }];
    expect(await code({ allowInternal: false, url: 'http://metadata.test/' }, internal)).toBe('address-refused');
    // One public address among several does not permit the rest.
    const both: ResolveHost = async () => [
      { address: '1.1.1.1', family: 4 },
      { address: '10.0.0.1', family: 4 },
    ];
    expect(await code({ allowInternal: false, url: 'http://both.test/' }, both)).toBe('address-refused');
    expect(requested).toEqual([]);
    // The first hop may be internal here; the target of its redirect is checked again.
    const hops: string[] = [];
    const perHop: ResolveHost = async (name) => {
      hops.push(name);
      return [{ address: '127.0.0.1', family: 4 }];
    };
    expect(await code({ url: `http://outward.test:${port}/inward` }, perHop)).toBe('input-unavailable');
    expect(hops).toEqual(['outward.test', 'inward.test']);
  });

  it('comes from the address that was checked, whatever the name resolves to the second time', async () => {
    let answers = 0;
    const rebinding: ResolveHost = async () => {
      answers += 1;
      return [{ address: answers === 1 ? '127.0.0.1' : '192.0.2.1', family: 4 }];
    };
    expect(await code({ url: `http://rebinding.test:${new URL(base).port}/file` }, rebinding)).toBe('fine');
    expect(answers).toBe(1);
  });

  it('stops when the task is cancelled, with that as the reason', async () => {
    const abort = new AbortController();
    const fetching = fetcher().fetch(order({ url: `${base}/slow` }), abort.signal);
    abort.abort(new Error('cancelled'));
    await expect(fetching).rejects.toThrow('cancelled');
  });
});

describe('a public address', () => {
  it('is one of the internet at large', () => {
    for (const address of ['8.8.8.8', '93.184.216.34', '2606:4700::1111'])
      expect([address, isPublicAddress(address)]).toEqual([address, true]);
    const special = [
      ...['0.0.0.0', '10.1.2.3', '100.64.0.1', '127.0.0.1', '169.254.169.254', '172.16.0.1', '192.168.1.1', '192.0.2.1'],
      ...['198.18.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255', '::', '::1', '::7f00:1', '::ffff:10.0.0.1', 'fc00::1'],
      ...['fe80::1', 'ff02::1', '2002:7f00:1::', '2001:db8::1', '64:ff9b::7f00:1', '2001::1', 'nonsense'],
    ];
    for (const address of special) expect([address, isPublicAddress(address)]).toEqual([address, false]);
  });
});
