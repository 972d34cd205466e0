import type { Resources } from '../../../model/host.ts';
import type { Lease } from '../lease.ts';
import { ceilSeconds } from '../plan-state.ts';
import type { Policy } from '../site-policy.ts';

/** What the ledger says about a site's hosts and leases, as the scheduler needs it. */

/** `leaving`: its VMs are being removed. */
export type LeasePhase = 'waiting' | 'running' | 'suspending' | 'suspended' | 'migrating' | 'resuming' | 'leaving';

/** A suspend, resume or migration under way, as planned. Of suspended work: its last migration. */
export interface SiteOperation {
  fromS: number;
  untilS: number;
  vms: { host: string; fromS: number; untilS: number }[];
}

export interface SiteLease {
  id: string;
  kind: Lease['kind'];
  submittedAtS: number;
  durationS: number;
  nodes: number;
  perVm: Resources;
  priority: number;
  preemptible: boolean;
  /** Its promised start; null: best effort. */
  startAtS: number | null;
  phase: LeasePhase;
  /** The host of each VM: where it is, the target of its migration, or where it is planned. Empty: not known yet. */
  hosts: string[];
  /** The planned hosts are final. */
  bound: boolean;
  /** While it has VMs: the start of the remaining work. */
  runFromS: number | null;
  /** The work that remained then; null: all of it. */
  leftS: number | null;
  /** From free hosts to VMs that answer: image, disks, boot or template. */
  leadS: number;
  operation: SiteOperation | null;
  /** Of best effort that pays by offers, or has rules: what it costs on each host that it may use. */
  hostCosts?: Readonly<Record<string, number>> | null;
  relation?: 'together' | 'apart' | null;
}

export interface SiteHost {
  id: string;
  capacity: Resources;
  /** It is online and takes new work. */
  up: boolean;
  /** It is online: VMs can migrate from it. */
  answers: boolean;
  /** The duration of its suspends and resumes relative to the plan. */
  slowness: number;
  /** It is empty over this interval. */
  vacant: { fromS: number; untilS: number } | null;
}

/** A VM of work under way that the plan counts without its lease: on a host where nothing has to make way. */
export interface RunningVm {
  host: string;
  each: Resources;
  /** When the rest of its time began, and how long that is; both 0 of a VM that is being removed. */
  runFromS: number;
  leftS: number;
  /** Whether it could be suspended for a promise. */
  preemptible: boolean;
}

/** The input of a plan. */
export interface SiteState {
  hosts: SiteHost[];
  /** In the order in which they were accepted. */
  leases: SiteLease[];
  /** Work that is not among the leases. */
  running?: RunningVm[];
  /** Capacity that no lease can use: of VMs that are stuck or arrive, and the disks of suspended VMs. */
  taken: { host: string; each: Resources }[];
}

/** What a lease costs beyond its own time, as measured on this site. */
export interface SiteFigures {
  /** From the end of the work to free hosts: outputs, removal. */
  teardownS: number;
  suspendMiBPerS: number;
}

/** Hosts are vacated this much before they are needed. */
const marginS = 2;

export function sitePolicy({ suspendMiBPerS }: SiteFigures): Policy {
  return {
    backfilling: 'aggressive',
    suspension: true,
    suspendMiBPerS,
    // The disk remains on its host.
    migration: 'memory',
    networkMiBPerS: 12.5,
    runtimeOverhead: 0,
    // Each lease has its own lead time.
    bootS: 0,
    marginS,
  };
}

/** The planner's view of a lease: the teardown of its VMs is planned after the user's time. */
export function plannedLease(lease: SiteLease, figures: SiteFigures): Lease {
  return {
    id: lease.id,
    kind: lease.startAtS === null ? lease.kind : 'reservation',
    submittedAtS: lease.submittedAtS,
    startAtS: lease.startAtS ?? undefined,
    durationS: ceilSeconds(lease.durationS + figures.teardownS),
    nodes: lease.nodes,
    ...lease.perVm,
    priority: lease.priority,
    preemptible: lease.preemptible,
    bootS: lease.leadS,
    relation: lease.relation ?? null,
    hostCosts: lease.hostCosts == null ? null : new Map(Object.entries(lease.hostCosts)),
  };
}
