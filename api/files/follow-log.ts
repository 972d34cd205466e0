import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Response } from 'express';
import { BerthError } from '../../model/errors.ts';
import type { TaskLogs } from './task-logs.ts';

/** How often a followed log is polled. Other API processes may write it, so this process gets no notification. */
const pollMs = 200;
/** How many logs one process sends at a time, over all readers. */
const maxSenders = 2000;
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
 * Sends logs, at most `perReader` of one reader at a time (`rate-limited` above that) and `maxSenders` of all (`unavailable`). A
 * followed log is sent as it grows, until its task is over and all that had arrived by then is sent; the client may disconnect
 * at any time. `isOver` is called before each poll: what arrives after it has returned true is not sent.
 */
export function openLogSender(logs: TaskLogs, perReader: number): LogSender {
  const active = new Map<string, number>();
  let all = 0;
  const share = shareAnswers();
  return async (request, isOver, res) => {
    const { reader, taskId } = request;
    const own = active.get(reader) ?? 0;
    if (own >= perReader)
      throw new BerthError('rate-limited', `This owner reads ${own} logs at the same time, of at most ${perReader}; end some`);
    if (all >= maxSenders) throw new BerthError('unavailable', 'Too many logs are being read; try again soon');
    all += 1;
    active.set(reader, own + 1);
    try {
      await sendLog(logs, request, () => share(taskId, isOver), res);
    } finally {
      all -= 1;
      const left = (active.get(reader) ?? 1) - 1;
      if (left === 0) active.delete(reader);
      else active.set(reader, left);
    }
  };
}
