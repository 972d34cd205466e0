import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Response } from 'express';
import type { TaskLogs } from './task-logs.ts';

/** How often a followed log is looked at. Other API processes may write it, so there is nothing to be woken by. */
const pollMs = 200;
/** How many logs one process follows at a time. */
const maxFollowers = 500;

export interface Followers {
  /** Null when there are too many. */
  acquire(): (() => void) | null;
}

export function openFollowers(): Followers {
  let count = 0;
  return {
    acquire() {
      if (count >= maxFollowers) return null;
      count += 1;
      return () => {
        count -= 1;
      };
    },
  };
}

async function copy(
  logs: TaskLogs,
  taskId: string,
  node: number,
  from: number,
  to: number,
  res: Response,
  gone: AbortSignal,
): Promise<void> {
  if (from >= to) return;
  for await (const chunk of logs.read(taskId, node, from, to)) {
    if (!res.write(chunk)) await once(res, 'drain', { signal: gone });
  }
}

/**
 * Sends a log as it is, or, when it is followed, as it grows, until the task is over and all that had arrived by
 * then is sent; the client may go at any time.
 * @param isOver asked before each look: what arrives after a "yes" is not waited for
 */
export async function sendLog(
  logs: TaskLogs,
  { taskId, node, follow }: { taskId: string; node: number; follow: boolean },
  isOver: () => Promise<boolean>,
  res: Response,
): Promise<void> {
  const disconnected = new AbortController();
  res.once('close', () => disconnected.abort());
  res.set({ 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' });
  // A quiet command sends nothing for hours; TCP's keep-alive notices a client that is gone.
  if (follow) res.set('X-Accel-Buffering', 'no').socket?.setTimeout(0);
  res.flushHeaders();
  try {
    let sent = 0;
    for (let over = false; !over; ) {
      over = !follow || (await isOver());
      const size = await logs.size(taskId, node);
      await copy(logs, taskId, node, sent, size, res, disconnected.signal);
      sent = Math.max(sent, size);
      if (!over) await pause(pollMs, undefined, { signal: disconnected.signal });
    }
    res.end();
  } catch (error) {
    if (!disconnected.signal.aborted) throw error;
  }
}
