import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

/**
 * The part of the repository that a host sees, on a folder: files/<name> are served, outputs/ and log-<name> are written.
 * Runs inside a host's namespaces; prints its port.
 */
const [, , folder = ''] = process.argv;

const server = createServer((request, response) => {
  void answer(request.method ?? '', new URL(request.url ?? '/', 'http://x')).catch((error: unknown) => {
    response.writeHead(500).end(String(error));
  });

  async function answer(method: string, url: URL): Promise<void> {
    const [kind, name = ''] = url.pathname.slice(1).split('/');
    if (method === 'GET' && kind === 'files') {
      const path = join(folder, 'files', name);
      const { size } = await stat(path).catch(() => ({ size: -1 }));
      if (size < 0) response.writeHead(404).end();
      else createReadStream(path).pipe(response.writeHead(200, { 'content-length': size }));
      return;
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    if (method === 'POST') await store(url.searchParams.get('path') ?? '', body);
    else await append(join(folder, `log-${name}`), body);
  }

  async function store(path: string, body: Buffer): Promise<void> {
    const sha256 = createHash('sha256').update(body).digest('hex');
    await mkdir(join(folder, 'outputs'), { recursive: true });
    await writeFile(join(folder, 'outputs', encodeURIComponent(path)), body);
    response.writeHead(201, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ file: `file_${sha256.slice(0, 26)}`, sizeBytes: body.length, sha256 }));
  }

  async function append(path: string, body: Buffer): Promise<void> {
    const from = Number(/^bytes (\d+)-/.exec(request.headers['content-range'] ?? '')?.[1] ?? -1);
    const log = await readFile(path).catch(() => Buffer.alloc(0));
    if (from < 0 || from > log.length) {
      response.writeHead(409, { 'content-type': 'application/problem+json' });
      response.end(JSON.stringify({ code: 'conflict', sizeBytes: log.length }));
      return;
    }
    const next = from + body.length > log.length ? Buffer.concat([log.subarray(0, from), body]) : log;
    await writeFile(path, next);
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ sizeBytes: next.length }));
  }
});
server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port));
