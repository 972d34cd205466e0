import { codeOf } from './failure.ts';

/**
 * Runs a step whose arguments hold signed URLs. They expire while the step waits for an unreachable host; the repository
 * then answers `forbidden`, and the step is repeated once with fresh ones.
 */
export async function withFreshUrls<Args, T>(issue: () => Promise<Args>, act: (args: Args) => Promise<T>): Promise<T> {
  try {
    return await act(await issue());
  } catch (error) {
    if (codeOf(error) !== 'forbidden') throw error;
    return act(await issue());
  }
}
