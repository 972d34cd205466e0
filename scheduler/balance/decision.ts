import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import type { GroupMembers } from '../constraints.ts';
import type { MigrationModel } from '../drains/migration-model.ts';
import type { MoveOffer, OfferFilter, StayFilter } from './offers.ts';
import type { BalanceHost, BalancePolicy, BalanceVm } from './site.ts';

/** A host's request for help, as its watchdog made it. */
export interface HelpRequest {
  host: string;
  verdict: WatchVerdict;
}

export interface BalanceInput {
  nowMs: number;
  hosts: readonly BalanceHost[];
  /** At least those of the hosts that ask for help; with the aim `pack`, all. */
  vms: readonly BalanceVm[];
  /** Of the groups that these VMs are members of, on all hosts. */
  members: GroupMembers;
  requests: readonly HelpRequest[];
  policy: BalancePolicy;
  model: MigrationModel;
}

/** Why no VM leaves a host. */
export type StayReason =
  /** The host is unknown, left out or drained: the balancer has nothing to say about it. */
  | 'leftOut'
  /** Its stress is not one of processors, which is all that a gain is predicted of. */
  | 'notProcessors'
  /** As many VMs are leaving it as may. */
  | 'leaving'
  | 'noMovableVm'
  /** Overloaded, and no help was found: every host refused every VM. */
  | 'noTarget'
  /** Hosts offered, and no move would gain enough for what it costs. */
  | 'notWorthwhile';

/** One answer to one request, with all that it was made of. */
export interface BalanceDecision {
  host: string;
  atMs: number;
  seen: WatchVerdict;
  /** The best offers of each step, chosen ones included, best first. */
  considered: readonly MoveOffer[];
  /** VMs that were not considered, by reason; and the refusals of hosts, one for each VM that was. */
  stayed: Readonly<Partial<Record<StayFilter, number>>>;
  refused: Readonly<Partial<Record<OfferFilter, number>>>;
  outcome: { kind: 'move'; moves: readonly MoveOffer[] } | { kind: 'stay'; why: StayReason };
}
