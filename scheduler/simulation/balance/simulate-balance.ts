import { balancePolicy, coolingUntilMs } from '../../balance/site.ts';
import type { BalanceRule } from './rule.ts';
import { type SimulatedMove, SimulatedSite, stepS } from './simulated-site.ts';
import type { BalanceTrace } from './workload.ts';

/** What came of a rule over a trace. */
export interface BalanceFigures {
  rule: string;
  hostHours: number;
  moves: number;
  /** Hours in which VMs of a host wanted more than its processors, and that as a part of all. */
  overloadH: number;
  overloadPercent: number;
  /** Hours of a processor that VMs wanted and didn't get, downtimes included. */
  starvedCpuH: number;
  /** VMs that came back, within their cool-down, to a host that they had left. */
  pingPong: number;
  /** Moves after which not less starved than without, and those that gained less than they cost. */
  withoutGain: number;
  belowCost: number;
  gainedCpuH: number;
  predictedCpuH: number | null;
  downtimeS: number;
  meanUse: number;
  refusedArrivals: number;
  runS: number;
}

/** For how long the effect of a move is followed, at most: until the VM ends or moves again. */
const followedS = 6 * 3600;

interface FollowedMove extends SimulatedMove {
  untilS: number;
  gainedCpuS: number;
}

export function simulateBalance(trace: BalanceTrace, createRule: (site: SimulatedSite) => BalanceRule): BalanceFigures {
  const startedMs = performance.now();
  const site = new SimulatedSite(trace);
  const rule = createRule(site);
  const { hosts, processors } = trace;
  const lost = (wanted: number): number => Math.max(0, wanted - processors);
  const ended: FollowedMove[] = [];
  let followed: FollowedMove[] = [];
  const endFollowing = (vm: number): void => {
    ended.push(...followed.filter((move) => move.vm === vm));
    followed = followed.filter((move) => move.vm !== vm);
  };
  const leftAt = new Map<string, number>();
  let pingPong = 0;
  site.onMoved = (move) => {
    endFollowing(move.vm);
    followed.push({ ...move, untilS: site.nowS + followedS, gainedCpuS: 0 });
    const coolUntilS = leftAt.get(`${move.vm} ${move.to}`);
    if (coolUntilS !== undefined && move.atS < coolUntilS) pingPong += 1;
    const moves = site.movedAtS.get(move.vm)!.map((atS) => atS * 1000);
    leftAt.set(`${move.vm} ${move.from}`, coolingUntilMs(moves, move.atS * 1000, balancePolicy) / 1000);
  };
  site.onGone = endFollowing;
  let overloadedSteps = 0;
  let starved = 0;
  let used = 0;
  const steps = Math.round(trace.lastsS / stepS);
  for (let step = 0; step < steps; step++) {
    site.advance();
    for (let host = 0; host < hosts; host++) {
      const wanted = site.demand[host]!;
      used += Math.min(processors, wanted);
      if (wanted <= processors) continue;
      overloadedSteps += 1;
      starved += wanted - processors;
    }
    if (followed.length > 0) {
      let anyEnds = false;
      for (const move of followed) {
        const cpus = site.level[move.vm]!;
        const from = site.demand[move.from]!;
        const to = site.demand[move.to]!;
        if (from + cpus > processors || to > processors)
          move.gainedCpuS += stepS * (lost(from + cpus) + lost(to - cpus) - lost(from) - lost(to));
        anyEnds ||= move.untilS <= site.nowS;
      }
      if (anyEnds) {
        ended.push(...followed.filter(({ untilS }) => untilS <= site.nowS));
        followed = followed.filter(({ untilS }) => untilS > site.nowS);
      }
    }
    rule.step(site);
  }
  ended.push(...followed);
  const sum = <T>(list: readonly T[], of: (one: T) => number): number => list.reduce((all, one) => all + of(one), 0);
  const downtimeS = sum(site.moves, (move) => move.downtimeS);
  const hostHours = (hosts * trace.lastsS) / 3600;
  const overloadH = (overloadedSteps * stepS) / 3600;
  const predicted = ended.filter((move) => move.predictedGainCpuS !== null);
  return {
    rule: rule.name,
    hostHours,
    moves: site.moves.length,
    overloadH,
    overloadPercent: (100 * overloadH) / hostHours,
    starvedCpuH: (starved * stepS + downtimeS) / 3600,
    pingPong,
    withoutGain: ended.filter(({ gainedCpuS }) => gainedCpuS <= 0).length,
    // As cost.ts counts: the hosts' work while it moves.
    belowCost: ended.filter(({ gainedCpuS, seconds }) => gainedCpuS < 2 * seconds).length,
    gainedCpuH: sum(ended, (move) => move.gainedCpuS) / 3600,
    predictedCpuH: predicted.length === 0 ? null : sum(predicted, (move) => move.predictedGainCpuS!) / 3600,
    downtimeS,
    meanUse: used / (steps * hosts * processors),
    refusedArrivals: site.refusedArrivals,
    runS: (performance.now() - startedMs) / 1000,
  };
}
