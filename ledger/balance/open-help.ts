import type { HelpAnswer } from '../../contracts/ledger-balance.ts';
import type { Prisma } from '../../generated/prisma/client.ts';
import type { HostId } from '../../model/ids.ts';
import { type BalancerMode, type BalanceState, offerS } from '../../model/load/balancer.ts';
import { balancerEventTypes } from '../../model/load/balancer-events.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import { decideSpread } from '../../scheduler/balance/decide.ts';
import type { BalanceDecision } from '../../scheduler/balance/decision.ts';
import type { MoveOffer } from '../../scheduler/balance/offers.ts';
import { writeEvent } from '../events/write-event.ts';
import { readBalancer } from '../load/balancer.ts';
import { readLatestLoads } from '../load/read-loads.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, isoOf, type LedgerDeps, type Transaction } from '../transaction.ts';
import { releaseExpiredHolds } from './holds.ts';
import { readBalanceSite, starvedCpusOf } from './read-balance.ts';

/** Offers that are held for one VM: the best, and the next where that host has lost its capacity meanwhile. */
const offersPerVm = 2;

/** How many processors a move frees while the stress lasts, by its prediction. */
export function predictedCpusOf({ gain, cost, staysS }: MoveOffer, stressS: number): number {
  return gain.duringStressCpuS / Math.max(1, Math.min(stressS - cost.seconds, staysS - cost.seconds));
}

/**
 * Decides about a host that asks for help, writes the decision with all that it was made of, and holds what the hosts offer. The
 * site is read and decided about before the transaction, which only inserts: each hold is checked against its host under the lock.
 */
export async function openHelp(deps: LedgerDeps, id: string, host: HostId, verdict: WatchVerdict): Promise<HelpAnswer> {
  const { ledger } = deps;
  const known = await ledger.balanceDecision.findUnique({ where: { id } });
  if (known !== null) return answerOf(known.state, known.decision as unknown as BalanceDecision);
  const { mode } = await readBalancer(ledger);
  if (mode === 'off') return { offered: false, summary: 'the balancer is off' };
  const nowMs = deps.clock();
  const { input, loads } = await readBalanceSite(ledger, [{ host, verdict }], await readLatestLoads(ledger, null, nowMs), nowMs);
  if (!input.hosts.some((one) => one.id === host)) return { offered: false, summary: `there is no host ${host}` };
  const decision = decideSpread(input)[0]!;
  const latest = loads.get(host);
  const starvedCpus = latest === undefined ? null : starvedCpusOf(latest);
  return inTransaction(ledger, async (tx) => {
    await lockPlacement(tx);
    await releaseExpiredHolds(tx, nowMs);
    const state = stateOf(decision, mode);
    const data = decision as unknown as Prisma.InputJsonObject;
    const endedAt = state === 'open' ? null : new Date(nowMs);
    await tx.balanceDecision.create({
      data: { id, hostId: host, mode, state, decision: data, starvedCpus, createdAt: new Date(nowMs), endedAt },
    });
    if (state === 'open') await holdOffers(tx, id, decision, input.vms, nowMs);
    else await writeDecided(tx, id, decision, mode, nowMs);
    return answerOf(state, decision);
  });
}

function stateOf({ outcome }: BalanceDecision, mode: BalancerMode): BalanceState {
  if (outcome.kind === 'stay') return 'stayed';
  return mode === 'advise' ? 'advised' : 'open';
}

function answerOf(state: BalanceState, { outcome, host }: BalanceDecision): HelpAnswer {
  const offered = state === 'open' || state === 'moving';
  if (outcome.kind === 'stay') return { offered, summary: `no VM leaves ${host}: ${outcome.why}` };
  const moves = outcome.moves.map(({ vm, to }) => `${vm} to ${to}`).join(', ');
  return { offered, summary: state === 'advised' ? `advised: ${moves}` : moves };
}

/** For each VM that is to move the chosen offer, and the next best of what was considered. */
async function holdOffers(
  tx: Transaction,
  id: string,
  { outcome, considered, seen }: BalanceDecision,
  vms: readonly { id: string; vcpus: number; memoryMiB: number }[],
  nowMs: number,
): Promise<void> {
  if (outcome.kind !== 'move') return;
  const sizes = new Map(vms.map((vm) => [vm.id, vm]));
  for (const chosen of outcome.moves) {
    const others = considered.filter(({ vm, to, worthwhile }) => vm === chosen.vm && to !== chosen.to && worthwhile);
    const size = sizes.get(chosen.vm)!;
    for (const [rank, offer] of [chosen, ...others].slice(0, offersPerVm).entries()) {
      await tx.$executeRaw`
        INSERT INTO "MoveHold" ("decisionId", "vmId", "hostId", vcpus, "memoryMiB", "predictedCpus", rank, "expiresAt")
        SELECT ${id}, ${offer.vm}, h.id, ${size.vcpus}::int, ${size.memoryMiB}::int, ${predictedCpusOf(offer, seen.expectedS)}::float8, ${rank}::int,
          ${isoOf(nowMs + offerS * 1000)}::timestamptz
        FROM "Host" h WHERE h.id = ${offer.to} AND h."removedAt" IS NULL AND h.state = 'up'
          AND h."usedVcpus" + ${size.vcpus}::int <= h.vcpus AND h."usedMemoryMiB" + ${size.memoryMiB}::int <= h."memoryMiB"
        ON CONFLICT DO NOTHING`;
    }
  }
}

/** What outsiders hear: that a host is overloaded, and what comes of it. */
export async function writeDecided(
  tx: Transaction,
  id: string,
  { host, seen, outcome }: BalanceDecision,
  mode: BalancerMode,
  nowMs: number,
  moves: readonly { vm: string; to: string; migration: string }[] = [],
): Promise<void> {
  const advised = outcome.kind === 'move' ? outcome.moves.map(({ vm, to }) => ({ vm, to, migration: null })) : [];
  const type =
    outcome.kind === 'stay'
      ? outcome.why === 'noTarget' || outcome.why === 'notProcessors'
        ? balancerEventTypes.noHelp
        : balancerEventTypes.stayed
      : mode === 'advise'
        ? balancerEventTypes.advised
        : balancerEventTypes.moving;
  const data = {
    decision: id,
    host,
    mode,
    kind: seen.kind,
    use: seen.seen.use,
    steal: seen.seen.steal,
    stressedS: seen.seen.stressedS,
    why: outcome.kind === 'stay' ? outcome.why : null,
    moves: mode === 'advise' ? advised : [...moves],
    at: isoOf(nowMs),
  };
  await writeEvent(tx, { type, subject: host, owner: 'site', time: isoOf(nowMs), data, n: nowMs }, 'ignore');
}
