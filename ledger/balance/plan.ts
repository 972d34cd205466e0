import { hostLoadFields } from '../../model/load/load.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import { decideSpread } from '../../scheduler/balance/decide.ts';
import type { BalanceDecision, HelpRequest } from '../../scheduler/balance/decision.ts';
import { decidePack, type PackDecision } from '../../scheduler/balance/pack.ts';
import { watchLimits } from '../../scheduler/balance/watchdog.ts';
import type { Ledger } from '../client.ts';
import { type LatestLoad, readLatestLoads } from '../load/read-loads.ts';
import { readBalanceSite } from './read-balance.ts';

/**
 * What the balancer would do if all hosts that are overloaded now asked for help at once, and their stress lasted as long as is
 * said. Changes nothing.
 */
export async function readBalancePlan(ledger: Ledger, stressS: number, nowMs: number): Promise<BalanceDecision[]> {
  const latest = await readLatestLoads(ledger, null, nowMs);
  const requests = latest.flatMap((one): HelpRequest[] => {
    const verdict = overloadOf(one, stressS);
    return verdict === null ? [] : [{ host: one.hostId, verdict }];
  });
  if (requests.length === 0) return [];
  const { input } = await readBalanceSite(ledger, requests, latest, nowMs);
  return decideSpread(input);
}

/** Of the hosts with the fewest VMs so many are asked about: a plan for more is made when these are empty. */
const packedHosts = 32;

/** Which hosts could be emptied, for sites that switch hosts off. Changes nothing. */
export async function readPackPlan(ledger: Ledger, nowMs: number): Promise<PackDecision[]> {
  const latest = await readLatestLoads(ledger, null, nowMs);
  const few = latest
    .filter(({ vms }) => vms.size > 0)
    .toSorted((a, b) => a.vms.size - b.vms.size || (a.hostId < b.hostId ? -1 : 1))
    .slice(0, packedHosts)
    .map(({ hostId }) => hostId);
  const { input } = await readBalanceSite(ledger, [], latest, nowMs, few);
  return decidePack(input, few);
}

/** By one sample, what a watchdog says after many. */
function overloadOf({ host }: LatestLoad, stressS: number): WatchVerdict | null {
  const at = (field: (typeof hostLoadFields)[number]): number => host[hostLoadFields.indexOf(field)] ?? 0;
  const [use, steal] = [at('use'), at('steal')];
  const starved = steal >= watchLimits.starved || at('cpuPressure') >= watchLimits.cpuPressure;
  if (use < watchLimits.busy || !starved) return null;
  const seen = { points: 0, spikeS: watchLimits.spikeS.least, useLimit: 1, stressedS: 0, use, steal };
  return { asks: true, kind: 'processors', confidence: 0.5, expectedS: stressS, seen };
}
