import { createHash } from 'node:crypto';
import { BerthError } from '../../model/errors.ts';
import type { Repository } from '../ports/repository.ts';

/** One repository for all fake hosts of a site: what was stored, by URL without its query. */
export interface FakeRepository extends Repository {
  /** The content of inputs and images, by the complete URL. */
  sources: Map<string, Buffer>;
  outputs: Map<string, { path: string; content: Buffer; file: string; writes: number; attempt: string | null }>;
  logs: Map<string, Buffer>;
}

const withoutQuery = (url: string): string => url.split('?')[0] ?? url;

export function createFakeRepository(): FakeRepository {
  const sources: FakeRepository['sources'] = new Map();
  const outputs: FakeRepository['outputs'] = new Map();
  const logs: FakeRepository['logs'] = new Map();
  return {
    sources,
    outputs,
    logs,
    async storeOutput(url, path, sizeBytes, content, signal, attempt) {
      const chunks: Buffer[] = [];
      for await (const chunk of content) chunks.push(Buffer.from(chunk as Uint8Array));
      signal.throwIfAborted();
      const bytes = Buffer.concat(chunks);
      if (bytes.length !== sizeBytes)
        throw new BerthError('bad-request', `storing ${path}: announced ${sizeBytes} bytes, sent ${bytes.length}`);
      const key = `${withoutQuery(url)}?path=${path}`;
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      const file = `file_${createHash('sha256').update(key).digest('hex').slice(0, 26)}`;
      outputs.set(key, { path, content: bytes, file, writes: (outputs.get(key)?.writes ?? 0) + 1, attempt: attempt ?? null });
      return { file, sizeBytes, sha256 };
    },
    async appendLog(url, from, bytes, signal) {
      signal.throwIfAborted();
      const key = withoutQuery(url);
      const log = logs.get(key) ?? Buffer.alloc(0);
      if (from > log.length) return log.length;
      const next = from + bytes.length > log.length ? Buffer.concat([log.subarray(0, from), bytes]) : log;
      logs.set(key, next);
      return next.length;
    },
  };
}
