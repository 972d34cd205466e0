import { codeOf, failure } from './failure.ts';

/** A URL that was valid for less than this has not expired: the repository does not accept what the ledger signs. */
const minLifeMs = 60_000;

/**
 * Runs a step whose arguments hold signed URLs. They expire while the step waits for an unreachable host, or lasts longer
 * than planned, and the key that signed them may have been replaced: the repository then answers `forbidden`, and the step
 * is repeated with fresh ones. Fresh ones that are refused at once are not renewed again.
 */
export async function withFreshUrls<Args, T>(issue: () => Promise<Args>, act: (args: Args) => Promise<T>): Promise<T> {
  for (let renewed = false; ; renewed = true) {
    const args = await issue();
    const issuedMs = Date.now();
    try {
      return await act(args);
    } catch (error) {
      if (codeOf(error) !== 'forbidden') throw error;
      if (renewed && Date.now() - issuedMs < minLifeMs)
        throw failure(
          'repository-unavailable',
          'The repository refused a URL that was just signed; API processes and control workers need the same signing keys and clocks',
        );
    }
  }
}
