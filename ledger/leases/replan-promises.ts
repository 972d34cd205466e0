import { BerthError } from '../../model/errors.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { inPlan } from './plan/plan-thread.ts';
import { readSite } from './plan/read-site.ts';
import type { HostWithdrawal, WithdrawalPlan } from './plan/withdrawal.ts';
import { writePromises } from './write-promises.ts';

/**
 * Hosts are withdrawn while leases have promises. A promise that has not begun is assigned other hosts; one for which there
 * are none refuses the withdrawal, before any host is closed. Work that runs migrates by the plan of the drain, which keeps
 * its promise.
 *
 * Reassigns promises within the caller's transaction and under the placement lock. Throws drain-impossible, with nothing
 * changed, for promises that would be broken.
 */
export async function replanPromises(tx: Transaction, withdrawal: HostWithdrawal): Promise<void> {
  await lockPlacement(tx);
  const { hosts } = withdrawal;
  // Most promises fit elsewhere beside all that runs; which of it ends in time is read only where one does not.
  let plan = await inPlan('withdrawal', await readSite(tx, { hosts, others: 'forever' }), withdrawal);
  if ('broken' in plan) plan = await inPlan('withdrawal', await readSite(tx, { hosts, others: 'ending' }), withdrawal);
  if ('broken' in plan) throw new BerthError('drain-impossible', brokenPromisesText(withdrawal, plan.broken));
  await writePromises(tx, plan.promises);
}

function brokenPromisesText({ hosts }: HostWithdrawal, broken: Extract<WithdrawalPlan, { broken: unknown }>['broken']): string {
  const each = broken.map(({ id, startAtS, durationS, nodes }) => {
    const from = startAtS ?? 0;
    const [startAt, endAt] = [from, from + durationS].map((seconds) => isoOf(seconds * 1000));
    return `${id} has ${nodes} hosts from ${startAt} to ${endAt}`;
  });
  return `Without ${hosts.join(', ')} what was promised could not be kept: ${each.join('; ')}. End these leases, or choose another time`;
}
