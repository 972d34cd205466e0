import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import fc from 'fast-check';
import { Agent } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FetchRequest } from '../../../../drivers/ports/input-fetcher.ts';
import { fetchParts } from '../../../../drivers/transfer/image-transfer.ts';
import { openInputFetcher } from '../../../../drivers/transfer/input-fetcher.ts';
import { openRepository } from '../../../../drivers/transfer/repository.ts';
import { errorTable } from '../../../../model/errors.ts';
import type { ImageId } from '../../../../model/ids.ts';
import { openLog } from '../../../../model/log.ts';
import { codeOf } from '../../../contract/suite.ts';

let folder: string;
let server: Server;
let url: string;
let answer: { status: number; body: string };
const never = new AbortController().signal;
const dispatcher = new Agent();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'berth-right-'));
  server = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(answer.status).end(answer.body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/internal/x?expires=1&signature=x`;
});
afterAll(async () => {
  await dispatcher.destroy();
  server.close();
  rmSync(folder, { recursive: true });
});

const blob = (): { url: string; sha256: string; sizeBytes: number } => ({ url, sha256: '0'.repeat(64), sizeBytes: 4 });
const image = () => ({
  id: 'image_1' as ImageId,
  name: 'i',
  digest: 'd',
  virtualMiB: 1,
  cmdline: '',
  cloudInit: false,
  parts: { disk: blob(), kernel: null, initrd: null },
  peers: [],
});
const input = (source: FetchRequest['source']): FetchRequest => ({
  url,
  source,
  sizeBytes: null,
  sha256: null,
  destination: join(folder, 'input'),
  limitBytes: 100,
  limitSeconds: 5,
  allowInternal: true,
});

/** Every way in which a host uses a signed URL. */
const uses: Record<string, () => Promise<unknown>> = {
  'reading an input': () => openInputFetcher(dispatcher).fetch(input('repository'), never),
  'reading an image': () => fetchParts({ root: folder, repository: dispatcher, log: openLog('test', 'error') }, image(), folder),
  'storing an output': () => openRepository(dispatcher).storeOutput(url, 'out', 1, Readable.from([Buffer.from('x')]), never),
  'appending to a log': () => openRepository(dispatcher).appendLog(url, 0, Buffer.from('x'), never),
};
const problem = (code: string) => JSON.stringify({ code, detail: 'why' });

describe.each(Object.entries(uses))('%s with a URL that the repository refuses', (_name, use) => {
  it.each([
    ['that has expired', 403, problem('forbidden')],
    ['by an API that knows no such key', 401, problem('unauthenticated')],
    ['by a proxy, which answers HTML', 403, '<html>Forbidden</html>'],
    ['without a body', 401, ''],
  ])('%s, is `forbidden`: the saga asks for another', async (_why, status, body) => {
    answer = { status, body };
    expect(await codeOf(use())).toBe('forbidden');
  });

  it.each([500, 502, 503, 429])('with %i is tried again with the same URL', async (status) => {
    answer = { status, body: '' };
    expect(await codeOf(use())).toBe('repository-unavailable');
  });

  it('whatever the body of the refusal is', async () => {
    const codes = Object.keys(errorTable).filter(
      (code) => !['quota-exceeded', 'too-large', 'disk-full', 'conflict'].includes(code),
    );
    const body = fc.oneof(fc.string(), fc.json(), fc.constantFrom(...codes).map(problem));
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(401, 403), body, async (status, text) => {
        answer = { status, body: text };
        expect(await codeOf(use())).toBe('forbidden');
      }),
      { numRuns: 50 },
    );
  });
});

it("an owner's used-up quota has the same status, and is no expired right", async () => {
  answer = { status: 403, body: problem('quota-exceeded') };
  expect(await codeOf(uses['storing an output']!())).toBe('quota-exceeded');
  expect(await codeOf(uses['appending to a log']!())).toBe('quota-exceeded');
});

it('what an outside URL refuses is the caller’s to correct', async () => {
  answer = { status: 403, body: '' };
  expect(await codeOf(openInputFetcher(dispatcher).fetch(input('outside'), never))).toBe('input-unavailable');
});
