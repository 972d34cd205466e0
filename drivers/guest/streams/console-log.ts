import { type FileHandle, open } from 'node:fs/promises';
import { type ConsoleRange, consoleSpan } from '../../../model/console.ts';
import { type ConsolePlace, maxTailBytes } from '../../../model/streams/console.ts';
import { isErrno } from '../../host/files.ts';
import { type ConsoleSegment, encodeSegments, maxHeaderBytes, readSegments, type SegmentPosition } from './earlier-console.ts';

const chunkBytes = 32 * 1024;

/** A file of the log, or what is kept of one of an earlier host. */
interface OpenLog {
  name: string;
  handle: FileHandle;
  /** The place of the first byte that is kept, and where in the file that is. */
  at: number;
  start: number;
  /** The place after the last byte. */
  end: number;
}

/** Some bytes of a console, where they are from, and where it goes on. */
export interface ConsolePart {
  from: ConsolePlace;
  bytes: Buffer;
  next: ConsolePlace;
}

export const earlierConsolePath = (console: string): string => `${console}.earlier`;
/** What virtlogd keeps of one guest: the file that it writes, and the one before. */
export const ownConsolePaths = (console: string): string[] => [console, `${console}.0`];

/** What is kept of one guest's console: its history at the hosts where it was before, and what virtlogd keeps here. */
export class ConsoleLog {
  readonly #console: string;
  readonly #host: string;
  #history: { name: string; segments: SegmentPosition[] } | null = null;

  constructor(path: string, host: string) {
    this.#console = path;
    this.#host = host;
  }

  /**
   * What comes after a place; null: nothing yet. Of a place that is not kept any more, or is unknown here, the oldest that is
   * kept; of none the last `tailBytes`.
   */
  async read(place: ConsolePlace | null, tailBytes: number): Promise<ConsolePart | null> {
    return this.#withLogs(async (logs) => {
      let from = place === null ? endOf(logs, tailBytes) : find(logs, place);
      for (; from.log !== undefined; from = firstOf(logs[logs.indexOf(from.log) + 1])) {
        const { log, at } = from;
        const bytes = await readAt(log, at, chunkBytes);
        if (bytes.length > 0) return { from: { file: log.name, at }, bytes, next: { file: log.name, at: at + bytes.length } };
      }
      return null;
    });
  }

  /** Whether what comes after this place is known here. */
  async has(place: ConsolePlace): Promise<boolean> {
    return this.#withLogs(async (logs) => logs.some(({ name }) => name === place.file));
  }

  /** Some bytes of all that is kept; null where nothing was ever written. Fewer where a file was replaced meanwhile. */
  async readPage(range: ConsoleRange): Promise<{ from: number; totalBytes: number; bytes: Buffer } | null> {
    return this.#withLogs(async (logs) => {
      if (logs.length === 0) return null;
      const totalBytes = logs.reduce((sum, { at, end }) => sum + end - at, 0);
      const { from, to } = consoleSpan(range, totalBytes);
      const found: Buffer[] = [];
      let before = 0;
      for (const log of logs) {
        const [first, last] = [Math.max(from, before), Math.min(to, before + log.end - log.at)];
        if (first < last) found.push(await readAt(log, log.at + first - before, last - first));
        before += log.end - log.at;
      }
      return { from, totalBytes, bytes: Buffer.concat(found) };
    });
  }

  /** The last MiB, as the history that another host gets. */
  async pack(): Promise<Buffer> {
    const segments: ConsoleSegment[] = [];
    let left = maxTailBytes;
    for (let part = await this.read(null, left); part !== null && left > 0; part = await this.read(part.next, 0)) {
      const { file, at } = part.from;
      const bytes = part.bytes.subarray(0, left);
      const last = segments.at(-1);
      if (last?.file === file && last.at + last.bytes.length === at) last.bytes = Buffer.concat([last.bytes, bytes]);
      else segments.push({ file, at, bytes });
      left -= bytes.length;
    }
    return encodeSegments(segments);
  }

  async #withLogs<T>(act: (logs: OpenLog[]) => Promise<T>): Promise<T> {
    const handles: FileHandle[] = [];
    try {
      return await act(await this.#open(handles));
    } finally {
      await Promise.all(handles.map((handle) => handle.close()));
    }
  }

  /** Opened before anything is read, the newest first: what is renamed meanwhile is there once, and what follows it comes later. */
  async #open(handles: FileHandle[]): Promise<OpenLog[]> {
    const logs: OpenLog[] = [];
    for (const path of ownConsolePaths(this.#console)) {
      const handle = await openOrNull(path);
      if (handle === null) continue;
      handles.push(handle);
      const { name, size } = await this.#identify(handle);
      if (!logs.some((other) => other.name === name)) logs.unshift({ name, handle, at: 0, start: 0, end: size });
    }
    const earlier = await openOrNull(earlierConsolePath(this.#console));
    if (earlier === null) return logs;
    handles.push(earlier);
    const segments = await this.#segmentsOf(earlier);
    return [
      ...segments.map(({ file, at, start, length }) => ({ name: file, handle: earlier, at, start, end: at + length })),
      ...logs,
    ];
  }

  /** A viewer reads it again and again, and it never changes. What the disk has damaged is as good as none. */
  async #segmentsOf(handle: FileHandle): Promise<SegmentPosition[]> {
    const { name, size } = await this.#identify(handle);
    if (this.#history?.name === name) return this.#history.segments;
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(maxHeaderBytes), 0, maxHeaderBytes, 0);
    const segments = readSegments(buffer.subarray(0, bytesRead), size) ?? [];
    this.#history = { name, segments };
    return segments;
  }

  async #identify(handle: FileHandle): Promise<{ name: string; size: number }> {
    const { size, ino, birthtimeMs } = await handle.stat();
    return { name: `${this.#host}.${ino}.${Math.floor(birthtimeMs)}`, size };
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

async function readAt({ handle, at: first, start, end }: OpenLog, at: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(Math.min(bytes, Math.max(0, end - at)));
  const { bytesRead } = await handle.read(buffer, 0, buffer.length, start + at - first);
  return buffer.subarray(0, bytesRead);
}

interface LogPlace {
  log: OpenLog | undefined;
  at: number;
}

const firstOf = (log: OpenLog | undefined): LogPlace => ({ log, at: log?.at ?? 0 });

function find(logs: OpenLog[], { file, at }: ConsolePlace): LogPlace {
  const log = logs.find(({ name }) => name === file);
  return log === undefined ? firstOf(logs[0]) : { log, at: Math.max(at, log.at) };
}

function endOf(logs: OpenLog[], tailBytes: number): LogPlace {
  let left = tailBytes;
  for (const log of logs.toReversed()) {
    if (left <= log.end - log.at) return { log, at: log.end - left };
    left -= log.end - log.at;
  }
  return firstOf(logs[0]);
}
