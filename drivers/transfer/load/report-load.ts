import type { Dispatcher } from 'undici';
import type { LoadBatch } from '../../../model/load/load.ts';
import { askApi } from '../ask-api.ts';
import type { StepArgsOptions } from '../step-args.ts';

const timeoutMs = 10_000;
/** Of a problem: a batch that is taken has no answer. */
const maxAnswerBytes = 64 * 1024;

/**
 * Reports a batch with the host's own key. One that the API refuses for good is given up, since it would be refused again. Throws
 * an Error where the API does not answer, or not now.
 */
export async function reportLoad(
  dispatcher: Dispatcher,
  { repositoryUrl, hostId, keyFile }: StepArgsOptions,
  batch: LoadBatch,
): Promise<void> {
  const url = new URL(`/internal/hosts/${hostId}/load`, repositoryUrl);
  const signal = AbortSignal.timeout(timeoutMs);
  const { status, text } = await askApi({ dispatcher, keyFile, maxAnswerBytes }, url, { signal, timeoutMs, report: batch });
  if (status === 204 || status === 400 || status === 413 || status === 422) return;
  throw new Error(`${url.host} answered ${status} to a report of the load: ${text.slice(0, 200)}`);
}
