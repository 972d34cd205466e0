import { BerthError } from '../../model/errors.ts';

/**
 * Whether the repository, or a proxy before it, refused the signed URL itself: it has expired, or its key was replaced. An
 * owner's refusal (`quota-exceeded`) has the same status, so its code is looked at first.
 */
export const isRightRefused = (status: number): boolean => status === 401 || status === 403;

/** `forbidden` is not retried with the same URL: the saga asks the ledger for another one (workflows/durable/fresh-urls.ts). */
export const rightRefused = (act: string, status: number): BerthError =>
  new BerthError('forbidden', `${act}: the repository answered ${status} to the signed URL`);
