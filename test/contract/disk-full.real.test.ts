import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDiskTool } from '../../drivers/disk/disk-tool.ts';
import { run } from '../../drivers/host/run-process.ts';
import { openVmStore } from '../../drivers/host/vm-store.ts';
import { openImageCache } from '../../drivers/transfer/image-cache.ts';
import { openInputFetcher } from '../../drivers/transfer/input-fetcher.ts';
import { newId } from '../../model/ids.ts';
import { openLog } from '../../model/log.ts';
import { codeOf } from './suite.ts';

/** A host whose disk is full: a small file system. */
let root: string;
let server: Server;
let url: string;
const never = new AbortController().signal;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'berth-full-'));
  await run(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'berth-full', root], { deadlineMs: 5000 });
  server = createServer((_, response) => response.end(randomBytes(12 * 2 ** 20)));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await run(['umount', root], { deadlineMs: 5000 });
  rmdirSync(root);
});

describe("a host's full disk", () => {
  it('is distinguished from inputs that are too large, and leaves no partial disk', async () => {
    mkdirSync(join(root, 'inputs'));
    writeFileSync(join(root, 'inputs', 'x'), randomBytes(5 * 2 ** 20));
    const disk = join(root, 'data.raw');
    expect(await codeOf(openDiskTool().createDataDisk(disk, join(root, 'inputs'), 64))).toBe('disk-full');
    expect(await codeOf(openDiskTool().createDataDisk(disk, join(root, 'inputs'), 4))).toBe('inputs-too-large');
    expect(readdirSync(root)).toEqual(['inputs']);
  });

  it('ends the transfer of an input', async () => {
    const request = {
      url,
      source: 'repository',
      sizeBytes: null,
      sha256: null,
      limitBytes: 2 ** 30,
      limitSeconds: 9,
      allowInternal: false,
    } as const;
    const fetching = openInputFetcher(new Agent()).fetch({ ...request, destination: join(root, 'in', 'file') }, never);
    expect(await codeOf(fetching)).toBe('disk-full');
    expect(readdirSync(join(root, 'in'))).toEqual([]);
  });

  it('ends the transfer of an image, of which nothing remains', async () => {
    const store = openVmStore(root);
    const cache = openImageCache({ root, budgetMiB: 100, store, repository: new Agent(), log: openLog('test', 'error') });
    const blob = { url, sizeBytes: 12 * 2 ** 20, sha256: '0'.repeat(64) };
    const parts = { disk: blob, kernel: blob, initrd: blob };
    const image = { id: newId('image'), name: 'x', digest: 'x', virtualMiB: 1, cmdline: '', cloudInit: false, peers: [], parts };
    expect(await codeOf(cache.ensure(image, never))).toBe('disk-full');
    expect([await cache.list(), readdirSync(join(root, 'staging'))]).toEqual([[], []]);
  });
});
