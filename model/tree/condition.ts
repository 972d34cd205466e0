import { BerthError } from '../errors.ts';

/** If-Match and If-None-Match of a request: SHA-256 of contents, or any (`*`); null: no such header. */
export interface ContentCondition {
  ifMatch: readonly string[] | '*' | null;
  ifNoneMatch: readonly string[] | '*' | null;
}

export const unconditional: ContentCondition = { ifMatch: null, ifNoneMatch: null };

const includes = (digests: readonly string[] | '*', sha256: string | null): boolean =>
  digests === '*' || (sha256 !== null && digests.includes(sha256));

/**
 * Throws `precondition-failed` unless what is there meets the condition.
 * @param found its SHA-256, null for a folder; undefined: nothing is there
 */
export function refuseUnmet({ ifMatch, ifNoneMatch }: ContentCondition, found: string | null | undefined): void {
  const is = found === undefined ? 'nothing is there' : found === null ? 'it is a folder' : `its ETag is "${found}"`;
  if (ifMatch !== null && (found === undefined || !includes(ifMatch, found)))
    throw new BerthError('precondition-failed', `If-Match is not met: ${is}`);
  if (ifNoneMatch !== null && found !== undefined && includes(ifNoneMatch, found))
    throw new BerthError('precondition-failed', `If-None-Match is not met: ${is}`);
}
