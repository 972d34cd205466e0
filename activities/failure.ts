import { asyncLocalStorage, type Context } from '@temporalio/activity';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { BerthError } from '../model/errors.ts';

/** The one form in which a BerthError crosses Temporal: type = code, details = [{fields, …extra}]; workflows/durable/failure.ts reads it. */
export function toFailure(error: unknown): Error {
  if (error instanceof ApplicationFailure || error instanceof CancelledFailure) return error;
  const known =
    error instanceof BerthError
      ? error
      : new BerthError('internal', error instanceof Error ? error.message : String(error), { cause: error });
  return ApplicationFailure.create({
    message: known.message,
    type: known.code,
    nonRetryable: !known.retryable,
    details: [{ fields: known.fields, ...known.extra }],
    ...(error instanceof Error ? { cause: error } : {}),
  });
}

/** Why an attempt stopped early: it was cancelled, and is not retried, or its worker shuts down, and it is. */
function stopReason(context: Context, error: unknown): Error {
  if (context.cancellationDetails?.workerShutdown)
    return toFailure(new BerthError('host-unavailable', 'The worker was stopped during this step', { cause: error }));
  return error instanceof CancelledFailure ? error : new CancelledFailure('The step was cancelled', [], error as Error);
}

/**
 * Sends heartbeats while the attempt runs, where it has a heartbeat timeout. They show only that this process is alive: a
 * step that hangs is ended by its own deadlines and by startToClose.
 */
function heartbeatWhileRunning(context: Context): Disposable {
  const timeoutMs = context.info.heartbeatTimeoutMs;
  if (timeoutMs === undefined || context.info.isLocal) return { [Symbol.dispose]: () => undefined };
  context.heartbeat();
  const timer = setInterval(() => context.heartbeat(), timeoutMs / 4);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

async function runAttempt<R>(act: () => Promise<R>): Promise<R> {
  const context = asyncLocalStorage.getStore();
  if (context === undefined) return act();
  using _ = heartbeatWhileRunning(context);
  try {
    return await act();
  } catch (error) {
    throw context.cancellationSignal.aborted ? stopReason(context, error) : toFailure(error);
  }
}

/**
 * Wraps every activity of a contract for its worker: errors by the table of model/errors.ts, cancellation as
 * cancellation, heartbeats where the attempt has a heartbeat timeout.
 */
export function guard<T extends object>(activities: T): T {
  const guarded: Record<string, unknown> = {};
  for (const [name, act] of Object.entries(activities))
    guarded[name] = (...args: unknown[]) =>
      runAttempt(() => (act as (...args: unknown[]) => Promise<unknown>).apply(activities, args));
  return guarded as T;
}
