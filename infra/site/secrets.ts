import { readFileSync } from 'node:fs';
import { replaceFile } from './home.ts';

/** The secret in a file that only its owner can read; made on the first call, and the same ever after. */
export function persistentSecret(path: string, make: () => string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  const secret = make();
  replaceFile(path, `${secret}\n`, 0o600);
  return secret;
}
