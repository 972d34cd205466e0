import type { JobResult, LogTail } from '../../../drivers/ports/guest.ts';
import { BerthError } from '../../../model/errors.ts';

/** What this host knows of a command without its guest. */
interface KnownOfJob {
  /** By this host's clock, since the command may have begun, without the time in which the guest stood still. */
  passedMs: number;
  logLimitBytes: number;
}

type ExitedJob = Extract<JobResult, { kind: 'exited' }>;

/**
 * A guest says how its command ended, and may say anything. A duration is cut to what passed here, and a log's length to its
 * limit, because a guest's clock is its own; an exit code that no process can have is `guest-invalid`.
 */
export function boundJobResult(claimed: ExitedJob, { passedMs, logLimitBytes }: KnownOfJob): ExitedJob {
  const { exitCode, seconds, logBytes, tail } = claimed;
  if (!Number.isInteger(exitCode) || exitCode < 0 || exitCode > 255)
    throw new BerthError('guest-invalid', `reading how the command ended: ${exitCode} is no exit code; expected 0 to 255`);
  const bytes = (claim: number): number => Math.floor(within(claim, logLimitBytes));
  return {
    ...claimed,
    seconds: within(seconds, Math.max(0, passedMs) / 1000),
    logBytes: logBytes === null ? null : bytes(logBytes),
    tail: tail === null ? null : boundTail(tail, logLimitBytes - bytes(logBytes ?? logLimitBytes)),
  };
}

/** A log and its tail have the log's limit together. */
function boundTail({ leftOutBytes, bytes, from }: LogTail, mostBytes: number): LogTail {
  const kept = Math.floor(within(bytes, mostBytes));
  const left = Math.floor(within(leftOutBytes, Number.MAX_SAFE_INTEGER));
  return { leftOutBytes: left, bytes: kept, from: from >= 0 && from < kept ? Math.floor(from) : 0 };
}

const within = (claimed: number, most: number): number =>
  Number.isFinite(claimed) ? Math.min(Math.max(0, claimed), most) : most;
