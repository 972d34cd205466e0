import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent } from 'undici';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newRecord } from '../../../../activities/host/vm-record.ts';
import { openVmStore } from '../../../../drivers/host/vm-store.ts';
import type { ImageCache } from '../../../../drivers/ports/image-cache.ts';
import type { VmStore } from '../../../../drivers/ports/vm-store.ts';
import { openImageCache } from '../../../../drivers/transfer/image-cache.ts';
import { newId } from '../../../../model/ids.ts';
import { openLog } from '../../../../model/log.ts';
import type { ImageRef } from '../../../../model/vm.ts';
import { codeOf } from '../../../contract/suite.ts';

let root: string;
let server: Server;
let base: string;
let requested: string[];
let store: VmStore;
const files = new Map<string, Buffer>();
const never = new AbortController().signal;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'berth-images-'));
  for (const name of ['images', 'staging', 'vms']) mkdirSync(join(root, name));
  requested = [];
  server = createServer((request, response) => {
    requested.push(request.url ?? '');
    const content = files.get(request.url ?? '');
    if (content === undefined) response.writeHead(404).end();
    else response.end(content);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  store = openVmStore(root);
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(root, { recursive: true });
});

const open = (budgetMiB = 100): ImageCache =>
  openImageCache({ root, budgetMiB, store, repository: new Agent(), log: openLog('test', 'error') });

function image(megabytes = 0.001): ImageRef {
  const id = newId('image');
  const part = (name: string, content: Buffer) => {
    files.set(`/${id}/${name}`, content);
    return {
      url: `${base}/${id}/${name}`,
      sizeBytes: content.length,
      sha256: createHash('sha256').update(content).digest('hex'),
    };
  };
  const disk = Buffer.alloc(megabytes * 2 ** 20, id);
  const parts = { disk: part('disk', disk), kernel: part('kernel', Buffer.from('k')), initrd: part('initrd', Buffer.from('i')) };
  return { id, name: 'x', digest: 'd', virtualMiB: 1, cmdline: '', cloudInit: false, parts, peers: [] };
}

const age = (id: string): void => utimesSync(join(root, 'images', id, 'image.json'), 0, 0);
const staged = (): string[] => readdirSync(join(root, 'staging'));

describe('the cache of images', () => {
  it('transfers an image once for any number of concurrent requests, and then never again', async () => {
    const cache = open();
    const one = image();
    const answers = await Promise.all(Array.from({ length: 20 }, () => cache.ensure(one, never)));
    expect(new Set(answers.map(({ from }) => from))).toEqual(new Set(['repository']));
    expect(requested).toHaveLength(3);
    expect(await open().ensure(one, never)).toEqual({ from: 'cache', bytes: 0 });
    expect(readFileSync((await cache.find(one.id))!.kernel!, 'utf8')).toBe('k');
    expect(staged()).toEqual([]);
  });

  it('gets two hundred requests on three hosts, and transfers once to each', async () => {
    const hosts = ['a', 'b', 'c'].map((name) => {
      const home = join(root, name);
      for (const folder of ['images', 'staging', 'vms']) mkdirSync(join(home, folder), { recursive: true });
      const log = openLog('test', 'error');
      return openImageCache({ root: home, budgetMiB: 100, store: openVmStore(home), repository: new Agent(), log });
    });
    const one = image(2);
    const answers = await Promise.all(Array.from({ length: 200 }, (_, index) => hosts[index % 3]!.ensure(one, never)));
    expect(new Set(answers.map(({ from }) => from))).toEqual(new Set(['repository']));
    const perPart = Map.groupBy(requested, (url) => url);
    expect([...perPart.values()].map((times) => times.length)).toEqual([3, 3, 3]);
    for (const cache of hosts) expect(await cache.list()).toEqual([one.id]);
  });

  it('continues the transfer for the other callers when one of them is cancelled', async () => {
    const cache = open();
    const one = image(1);
    const abort = new AbortController();
    const cancelled = cache.ensure(one, abort.signal);
    const other = cache.ensure(one, never);
    abort.abort(new Error('cancelled'));
    await expect(cancelled).rejects.toThrow('cancelled');
    expect((await other).from).toBe('repository');
  });

  it('stores nothing that is damaged, too long or truncated', async () => {
    for (const change of [(b: Buffer) => b.fill(1, 5, 6), (b: Buffer) => Buffer.concat([b, b]), (b: Buffer) => b.subarray(1)]) {
      const one = image();
      const path = `/${one.id}/disk`;
      files.set(path, change(Buffer.from(files.get(path)!)));
      expect(await codeOf(open().ensure(one, never))).toBe('image-damaged');
      expect(await open().list()).toEqual([]);
      expect(staged()).toEqual([]);
    }
  });

  it('falls back to the repository when no peer answers', async () => {
    const one = { ...image(), peers: ['127.0.0.1'] };
    const quiet = openImageCache({
      root,
      budgetMiB: 9,
      store,
      repository: new Agent(),
      log: openLog('test', 'fatal' as 'error'),
    });
    expect((await quiet.ensure(one, never)).from).toBe('repository');
  });

  it('evicts the least recently used image for a new one, but none that a VM needs or that was used just now', async () => {
    const cache = open(3);
    const [needed, old, fresh, last] = [image(1), image(1), image(1), image(1)];
    for (const one of [needed, old, fresh]) await cache.ensure(one, never);
    const vmId = newId('vm');
    await store.writeDurably(newRecord({ id: vmId, generation: 1, image: needed, network: { vni: 1 } }));
    age(needed.id);
    age(old.id);
    await cache.ensure(last, never);
    expect((await cache.list()).sort()).toEqual([needed.id, fresh.id, last.id].sort());
  });

  it('keeps a pinned one, and counts what was derived from an image with it', async () => {
    const cache = open(3);
    const [pinned, grown, last] = [image(1), image(1), image(1)];
    for (const one of [pinned, grown]) await cache.ensure(one, never);
    await cache.pin(pinned.id, Date.now() + 60_000);
    await cache.pin(pinned.id, Date.now() + 1);
    const templates = join(root, 'images', grown.id, 'templates', '1-256');
    mkdirSync(templates, { recursive: true });
    writeFileSync(join(templates, 'memory'), Buffer.alloc(2 ** 20, 1));
    age(pinned.id);
    age(grown.id);
    await cache.ensure(last, never);
    expect((await cache.list()).sort()).toEqual([pinned.id, last.id].sort());
  });

  it('removes an image with all that was derived from it, but none that a VM needs', async () => {
    const cache = open();
    const [needed, gone] = [image(), image()];
    for (const one of [needed, gone]) await cache.ensure(one, never);
    await store.writeDurably(newRecord({ id: newId('vm'), generation: 1, image: needed, network: { vni: 1 } }));
    await cache.remove(gone.id);
    await cache.remove(gone.id);
    expect(await codeOf(cache.remove(needed.id))).toBe('in-use');
    expect(await cache.list()).toEqual([needed.id]);
    expect(staged()).toEqual([]);
  });
});
