import type { Writable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { CallError, type Connection, call, withRetry } from './client.ts';
import { writeBytes } from './output.ts';

const attempts = 4;

/**
 * Copies a log to its end. Where the connection breaks, also after hours, it is asked for again, and what was written
 * already is skipped: logs only grow.
 */
export async function copyLog(connection: Connection, path: string, out: Writable, backoffMs = 1_000): Promise<void> {
  const open = () => call(connection, path);
  let { body } = await open();
  let written = 0;
  for (let attempt = 1; ; attempt += 1) {
    let skipped = 0;
    try {
      for await (const chunk of body as AsyncIterable<Uint8Array>) {
        const known = Math.min(written - skipped, chunk.length);
        skipped += known;
        if (known === chunk.length) continue;
        attempt = 1;
        written += chunk.length - known;
        skipped += chunk.length - known;
        await writeBytes(out, chunk.subarray(known));
      }
      return;
    } catch (error) {
      if (attempt === attempts) throw new CallError(`The log broke off after ${written} bytes`, null, error);
      await pause(backoffMs * attempt);
      ({ body } = await withRetry(open));
    }
  }
}
