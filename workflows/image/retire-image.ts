import type { HostId, ImageId } from '../../model/ids.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';

/**
 * Sweeps a retired image from every host and from the repository. Nothing can be made from it any more, so there is no
 * way back and nothing to undo: each step is tried until it succeeds. A host that is away holds up nobody but itself.
 */
export async function retireImage(id: ImageId, pace = 1): Promise<void> {
  const ledger = onLedger(pace);
  const progress = new Progress();
  const retry = new RetryForever(pace);
  progress.setAttributes({ state: 'removing' });
  const hosts = await ledger.listImageHosts(id);
  progress.setAttributes({ hosts });
  await Promise.all(hosts.map((host) => removeFrom(host)));
  await ledger.removeImageFiles(id);
  progress.setAttributes({ state: 'removed' });

  async function removeFrom(host: HostId): Promise<void> {
    const wait = (): void => progress.setDetail(host, `**${host} does not answer** since ${isoNow()}; the image waits there`);
    const refused = (error: unknown): void => {
      const { code, message } = taskErrorOf(error);
      progress.setDetail(host, `**${host} still has it** (${code}): ${message}`);
    };
    await retry.run(() => onHost(host, pace, { wait }).removeImage(id), refused);
    await ledger.recordImageRemoved(host, id);
    progress.setDetail(host, null);
  }
}
