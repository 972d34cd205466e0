import { BerthError } from '../../model/errors.ts';

/** The answer, or null where a hypervisor or an agent refuses or doesn't answer at the moment: then the caller asks again. */
export async function nullIfUnavailable<T>(ask: () => Promise<T>): Promise<T | null> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof BerthError && (error.code === 'host-busy' || error.code === 'hypervisor')) return null;
    throw error;
  }
}
