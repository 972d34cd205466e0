import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Response } from 'express';
import type { FollowerShares } from '../events/follower-shares.ts';
import type { TaskLogs } from './task-logs.ts';

/** How often a followed log is polled. Other API processes may write it, so this process gets no notification. */
const pollMs = 200;
/** How long the answer whether a task is over serves all that follow its log. */
const overMs = 150;

/** A log as a caller asks for it. */
interface LogRequest {
  /** Who reads it. */
  reader: string;
  /** The task, or the VM of a build, whose log it is. */
  taskId: string;
  node: number;
  /** Whether what arrives later is sent too, until `isOver`. */
  follow: boolean;
}

async function copy(
  logs: TaskLogs,
  taskId: string,
  node: number,
  from: number,
  to: number,
  res: Response,
  disconnected: AbortSignal,
): Promise<void> {
  if (from >= to) return;
  for await (const chunk of logs.read(taskId, node, from, to)) {
    if (!res.write(chunk)) await once(res, 'drain', { signal: disconnected });
  }
}

async function sendLog(
  logs: TaskLogs,
  { taskId, node, follow }: LogRequest,
  isOver: () => Promise<boolean>,
  res: Response,
): Promise<void> {
  const disconnected = new AbortController();
  res.once('close', () => disconnected.abort());
  res.set({ 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' });
  // A command may print nothing for hours; TCP's keep-alive detects a client that has disconnected.
  if (follow) res.set('X-Accel-Buffering', 'no').socket?.setTimeout(0);
  res.flushHeaders();
  try {
    let sent = 0;
    // An answer to HEAD has no body to wait for.
    for (let over = res.req.method === 'HEAD'; !over; ) {
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

export type LogSender = (request: LogRequest, isOver: () => Promise<boolean>, res: Response) => Promise<void>;

/** Answers `isOver` of one task for all that follow its log at this moment by one query. */
function shareAnswers(): (taskId: string, isOver: () => Promise<boolean>) => Promise<boolean> {
  const answers = new Map<string, Promise<boolean>>();
  return (taskId, isOver) => {
    const known = answers.get(taskId);
    if (known !== undefined) return known;
    const answer = isOver();
    answers.set(taskId, answer);
    setTimeout(() => answers.delete(taskId), overMs).unref();
    return answer;
  };
}

/**
 * Sends logs, as many of one reader at a time as its share is (`rate-limited` above that). A followed log is sent as it grows, until its
 * task is over and all that had arrived by then is sent; the client may disconnect at any time. `isOver` is called before each
 * poll: what arrives after it has returned true is not sent.
 */
export function openLogSender(logs: TaskLogs, shares: FollowerShares): LogSender {
  const share = shareAnswers();
  return async (request, isOver, res) => {
    const leave = shares.enter(request.reader);
    try {
      await sendLog(logs, request, () => share(request.taskId, isOver), res);
    } finally {
      leave();
    }
  };
}
