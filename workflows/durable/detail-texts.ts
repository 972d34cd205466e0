import type { HostId } from '../../model/ids.ts';
import type { Refusal } from '../../model/task.ts';
import { isoNow } from './progress.ts';

/** Lines of the current details that several sagas show. */
export const unreachableText = (host: HostId, step: string): string =>
  `**${host} does not answer** since ${isoNow()}; ${step} waits for its worker`;

/** Why there was no placement: how many hosts failed which filter. */
export function refusalText({ hosts, failed }: Refusal): string {
  const reasons = Object.entries(failed).map(([filter, count]) => `${count} failed ${filter}`);
  return `of ${hosts} hosts ${reasons.join(', ') || 'none was considered'}`;
}
