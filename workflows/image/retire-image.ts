import type { HostId, ImageId } from '../../model/ids.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { unreachableText } from '../durable/detail-texts.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';

/**
 * Removes a retired image from all hosts and from the repository. No VM can use it any more, so there is nothing to undo:
 * each step is retried without limit. The hosts are independent of each other.
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
    const wait = (): void => progress.setDetail(host, unreachableText(host, 'removeImage'));
    const showRefusal = (error: unknown): void => {
      const { code, message } = taskErrorOf(error);
      progress.setDetail(host, `**${host} still has it** (${code}): ${message}`);
    };
    await retry.run(() => onHost(host, pace, { wait }).removeImage(id), showRefusal);
    await ledger.recordImageRemoved(host, id);
    progress.setDetail(host, null);
  }
}
