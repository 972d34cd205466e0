import { constants, createReadStream } from 'node:fs';
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { asDiskError, isNoSuchFile } from './byte-store.ts';

/** What each node of a task has printed, as far as it has arrived. */
export interface TaskLogs {
  /**
   * Writes bytes at an offset. Bytes that are there already do not change: the same offset always has the same bytes.
   * Returns the size afterwards, and `gap` when the offset lies beyond the end, in which case nothing was written.
   */
  append(
    taskId: string,
    node: number,
    from: number,
    source: AsyncIterable<Uint8Array>,
  ): Promise<{ sizeBytes: number; gap: boolean }>;
  /** 0 when nothing has arrived. */
  size(taskId: string, node: number): Promise<number>;
  /** The bytes from an offset to just before another. */
  read(taskId: string, node: number, from: number, to: number): Readable;
  /** The folder of all logs of a task. */
  folder(taskId: string): string;
  /** The tasks, and the VMs of builds, that have logs, in no order. */
  tasks(): AsyncIterable<string>;
  /** Removes all logs of a task; success also when there are none. */
  remove(taskId: string): Promise<void>;
}

export async function openTaskLogs(root: string): Promise<TaskLogs> {
  const logs = join(root, 'logs');
  await mkdir(logs, { recursive: true, mode: 0o700 });
  const pathOf = (taskId: string, node: number) => join(logs, taskId.slice(-2), taskId, `${node}.log`);

  async function size(taskId: string, node: number): Promise<number> {
    try {
      return (await stat(pathOf(taskId, node))).size;
    } catch (error) {
      if (isNoSuchFile(error)) return 0;
      throw error;
    }
  }

  return {
    size,

    async append(taskId, node, from, source) {
      const before = await size(taskId, node);
      if (from > before) return { sizeBytes: before, gap: true };
      const path = pathOf(taskId, node);
      try {
        await mkdir(dirname(path), { recursive: true, mode: 0o700 });
        const handle = await open(path, constants.O_WRONLY | constants.O_CREAT, 0o600);
        try {
          let at = from;
          for await (const chunk of source) {
            const skip = Math.min(Math.max(before - at, 0), chunk.length);
            at += skip;
            for (let i = skip; i < chunk.length; ) {
              const { bytesWritten } = await handle.write(chunk, i, chunk.length - i, at);
              i += bytesWritten;
              at += bytesWritten;
            }
          }
        } finally {
          await handle.close();
        }
      } catch (error) {
        throw asDiskError(error);
      }
      return { sizeBytes: await size(taskId, node), gap: false };
    },

    async *tasks() {
      for (const group of await readdir(logs)) yield* await readdir(join(logs, group));
    },

    folder: (taskId) => dirname(pathOf(taskId, 0)),

    remove: (taskId) => rm(dirname(pathOf(taskId, 0)), { recursive: true, force: true }),

    read: (taskId, node, from, to) => createReadStream(pathOf(taskId, node), { start: from, end: to - 1 }),
  };
}
