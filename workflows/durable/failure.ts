import { ActivityFailure, ApplicationFailure, TimeoutFailure, TimeoutType } from '@temporalio/common';
import { type ErrorCode, isErrorCode } from '../../model/errors.ts';
import type { TaskError } from '../../model/task.ts';
import { saysDomainEnded } from '../../model/vm.ts';

/** The cause of an activity's failure, without Temporal's wrapper. */
function causeOf(error: unknown): unknown {
  return error instanceof ActivityFailure ? error.cause : error;
}

/** The code of model/errors.ts in a failure, which activities/failure.ts put there. */
export function codeOf(error: unknown): ErrorCode {
  const cause = causeOf(error);
  if (cause instanceof ApplicationFailure && cause.type != null && isErrorCode(cause.type)) return cause.type;
  if (cause instanceof TimeoutFailure) return cause.timeoutType === TimeoutType.START_TO_CLOSE ? 'host-busy' : 'host-unavailable';
  return 'internal';
}

/** A failure in the form in which its owner reads it. */
export function taskErrorOf(error: unknown): TaskError {
  const cause = causeOf(error);
  const code = codeOf(error);
  if (cause instanceof TimeoutFailure && error instanceof ActivityFailure)
    return { code, message: `The step ${error.activityType} exceeded its timeout, and so did its retries` };
  return { code, message: cause instanceof Error ? cause.message : String(cause) };
}

/** Whether the VM's domain has ended without Berth, and how long ago by its host; null: unknown. */
export function domainEndOf(error: unknown): { agoMs: number | null } | null {
  const cause = causeOf(error);
  const detail = cause instanceof ApplicationFailure ? (cause.details?.[0] as { endedAgoMs?: unknown } | undefined) : undefined;
  if (!saysDomainEnded(codeOf(error)) && detail?.endedAgoMs === undefined) return null;
  return { agoMs: typeof detail?.endedAgoMs === 'number' ? detail.endedAgoMs : null };
}

/** No worker took the activity from the host's queue in time: it has certainly not begun. */
export function neverStarted(error: unknown): boolean {
  const cause = causeOf(error);
  return cause instanceof TimeoutFailure && cause.timeoutType === TimeoutType.SCHEDULE_TO_START;
}

/** Whether the same activity would fail again with the same arguments. A timeout says nothing about that. */
export function isPermanent(error: unknown): boolean {
  const cause = causeOf(error);
  return !(cause instanceof TimeoutFailure) && !(cause instanceof ApplicationFailure && cause.nonRetryable !== true);
}

/** A failure that the workflow itself decides, in the same form as an activity's. */
export function failure(code: ErrorCode, message: string): ApplicationFailure {
  return ApplicationFailure.create({ message, type: code, nonRetryable: true });
}
