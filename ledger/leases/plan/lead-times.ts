import type { Resources } from '../../../model/host.ts';
import type { SiteHost } from '../../../scheduler/leases/site/site-state.ts';
import { typicalMax } from '../../../scheduler/statistics.ts';
import type { SiteRow } from './site-row.ts';

/** Time that a lease costs before its own, while nothing was measured: an emulated boot with a margin. */
export const leadS = { first: 15, least: 4, most: 900 };
/** The same after its own time: until its VMs are removed. */
export const tailS = { first: 8, least: 3, most: 300 };
/** Half of a gigabit network: the rate at which an image is transferred to hosts that lack it. */
const imageMiBPerS = 50;
/** Of each group of measurements the newest count, once there are enough to tell what is usual. */
const samplesPerGroup = 24;
const minSamples = 3;
/** The plan adds this margin to the usual maximum. */
const safetyFactor = 1.3;

/** VMs that start from the same template, as far as the ledger can tell. */
interface VmKind {
  imageId: string | null;
  imageMiB: number;
  each: Pick<Resources, 'vcpus' | 'memoryMiB'>;
}

type Measured = Pick<SiteRow, 'warm' | 'cachedEverywhere' | 'measured'> & { hosts: readonly Pick<SiteHost, 'id' | 'up'>[] };

/** Seconds from hosts that are free until VMs of a kind answer. */
export type LeadOf = (kind: VmKind) => number;

/**
 * VMs that start from a template answer much sooner than those that boot, so warm and cold starts have a figure each. The
 * warm one holds for a kind of VM whose last start on every host was warm, because the host is not known yet. The time to
 * transfer an image is added where a host lacks it.
 */
export function leadEstimator({ hosts, warm, cachedEverywhere, measured }: Measured): LeadOf {
  const leads = (isWarm: boolean): number => {
    const group = measured.filter((one) => one.warm === isWarm);
    const all = group.map(({ leadMs }) => leadMs);
    // Promised leases start on all their hosts at once: the many that start alone must not hide how long that takes.
    const promised = group.flatMap((one) => (one.promised ? [one.leadMs] : []));
    return estimateS([all, promised], leadS);
  };
  const figures = { warm: leads(true), cold: leads(false) };
  const kindOf = (image: string | null, vcpus: number, memoryMiB: number) => `${image} ${vcpus} ${memoryMiB}`;
  const warmOn = new Map<string, Set<string>>();
  for (const { host, image, vcpus, memoryMiB } of warm) {
    const kind = kindOf(image, vcpus, memoryMiB);
    warmOn.set(kind, (warmOn.get(kind) ?? new Set()).add(host));
  }
  const up = hosts.filter((host) => host.up);
  const everywhere = new Set(cachedEverywhere);
  return ({ imageId, imageMiB, each }) => {
    const warmHosts = warmOn.get(kindOf(imageId, each.vcpus, each.memoryMiB));
    if (warmHosts !== undefined && up.every(({ id }) => warmHosts.has(id))) return figures.warm;
    const isCached = up.length === 0 || everywhere.has(imageId ?? '');
    return Math.min(leadS.most, figures.cold + (isCached ? 0 : Math.round(imageMiB / imageMiBPerS)));
  };
}

/** Seconds from the end of a lease's time until its hosts are free again. */
export function tailEstimateS({ measured }: SiteRow): number {
  return estimateS([measured.flatMap(({ tailMs }) => tailMs ?? [])], tailS);
}

/**
 * Of measurements in ms, by group, the newest first; the first group is that of all. Rounds up to whole seconds, so that
 * the plan does not shift by milliseconds each time that it is made.
 */
function estimateS(groups: number[][], { first, least, most }: { first: number; least: number; most: number }): number {
  const known = groups.filter((group) => group.length >= minSamples);
  if (known.length === 0) return first;
  const usualMs = Math.max(...known.map((group) => typicalMax(group.slice(0, samplesPerGroup))));
  return Math.min(most, Math.max(least, Math.ceil((usualMs / 1000) * safetyFactor)));
}
