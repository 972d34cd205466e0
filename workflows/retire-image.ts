import type { HostId, ImageId } from '../model/ids.ts';
import { taskErrorOf } from './failure.ts';
import { Insistence } from './insistence.ts';
import { onHost, onLedger } from './on-host.ts';
import { now, Progress } from './progress.ts';

/**
 * Sweeps a retired image from every host and from the repository. Nothing can be made from it any more, so there is no
 * way back and nothing to undo: each step is tried until it succeeds. A host that is away holds up nobody but itself.
 */
export async function retireImage(id: ImageId, pace = 1): Promise<void> {
  const ledger = onLedger(pace);
  const progress = new Progress();
  const insistence = new Insistence(pace);
  progress.mark({ state: 'removing' });
  const hosts = await ledger.holdersOf(id);
  progress.mark({ hosts });
  await Promise.all(hosts.map((host) => leave(host)));
  await ledger.forgetImage(id);
  progress.mark({ state: 'removed' });

  async function leave(host: HostId): Promise<void> {
    const wait = (): void => progress.say(host, `**${host} does not answer** since ${now()}; the image waits there`);
    const refused = (error: unknown): void => {
      const { code, message } = taskErrorOf(error);
      progress.say(host, `**${host} still has it** (${code}): ${message}`);
    };
    await insistence.on(() => onHost(host, pace, { wait }).removeImage(id), refused);
    await ledger.imageGone(host, id);
    progress.say(host, null);
  }
}
