import { signUrl } from '../../model/signed-url.ts';
import type { SigningDeps } from '../transaction.ts';

/** How long a signed URL is valid after the step that uses it, in seconds. */
const urlLifetimeS = 3600;

/** Signs URLs of the repository that are valid while a step of this length runs, and after it. */
export function urlSigner(deps: SigningDeps, stepS: number): (method: string, path: string) => string {
  const { BERTH_SIGNING_KEY: key, BERTH_REPOSITORY_URL: base } = deps.signing;
  return (method, path) => signUrl(key, base, method, path, deps.clock(), stepS + urlLifetimeS);
}

/** A URL that allows to read one file of the repository. */
export const fileUrl = (deps: SigningDeps, file: string): string => urlSigner(deps, 0)('GET', `/internal/files/${file}`);
