import { type FileHandle, open } from 'node:fs/promises';
import type { ConsolePlace } from '../../../model/streams/console.ts';
import { isErrno } from '../../host/files.ts';

const chunkBytes = 32 * 1024;

interface OpenLog {
  name: string;
  handle: FileHandle;
  bytes: number;
}

/** Some bytes of a console, where they are from, and where it goes on. */
export interface ConsolePart {
  from: ConsolePlace;
  bytes: Buffer;
  next: ConsolePlace;
}

/** What virtlogd keeps of one guest's console: the file that it writes, and the one before. */
export class ConsoleLog {
  readonly #paths: string[];
  readonly #host: string;

  constructor(path: string, host: string) {
    this.#paths = [`${path}.0`, path];
    this.#host = host;
  }

  /**
   * What comes after a place; null: nothing yet. Of a place that is not kept any more, or is another host's, the oldest that is
   * kept; of none the last `tailBytes`.
   */
  async read(place: ConsolePlace | null, tailBytes: number): Promise<ConsolePart | null> {
    const logs = await this.#open();
    try {
      let from = place === null ? endOf(logs, tailBytes) : find(logs, place);
      for (; from.log !== undefined; from = { log: logs[logs.indexOf(from.log) + 1], at: 0 }) {
        const { log, at } = from;
        const buffer = Buffer.alloc(Math.min(chunkBytes, Math.max(0, log.bytes - at)));
        const { bytesRead } = await log.handle.read(buffer, 0, buffer.length, at);
        if (bytesRead === 0) continue;
        const [file, bytes] = [log.name, buffer.subarray(0, bytesRead)];
        return { from: { file, at }, bytes, next: { file, at: at + bytesRead } };
      }
      return null;
    } finally {
      await Promise.all(logs.map(({ handle }) => handle.close()));
    }
  }

  /** Opened first: what is renamed meanwhile keeps its name here. */
  async #open(): Promise<OpenLog[]> {
    const logs: OpenLog[] = [];
    for (const path of this.#paths) {
      const handle = await openOrNull(path);
      if (handle === null) continue;
      const { size, ino, birthtimeMs } = await handle.stat();
      const name = `${this.#host}.${ino}.${Math.floor(birthtimeMs)}`;
      if (logs.some((other) => other.name === name)) await handle.close();
      else logs.push({ name, handle, bytes: size });
    }
    return logs;
  }
}

async function openOrNull(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null;
    throw error;
  }
}

interface LogPlace {
  log: OpenLog | undefined;
  at: number;
}

function find(logs: OpenLog[], { file, at }: ConsolePlace): LogPlace {
  const log = logs.find(({ name }) => name === file);
  return log === undefined ? { log: logs[0], at: 0 } : { log, at };
}

function endOf(logs: OpenLog[], tailBytes: number): LogPlace {
  let left = tailBytes;
  for (const log of logs.toReversed()) {
    if (left <= log.bytes) return { log, at: log.bytes - left };
    left -= log.bytes;
  }
  return { log: logs[0], at: 0 };
}
