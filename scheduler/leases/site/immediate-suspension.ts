import { ceilSeconds } from '../plan-state.ts';
import type { SiteFigures, SiteOperation } from './site-state.ts';

interface SuspendedVm {
  host: string;
  memoryMiB: number;
  /** Of its host, relative to the plan. */
  slowness: number;
}

/** The suspension of all VMs of a lease from now on: on each host one after the other. @param vms by node */
export function immediateSuspension(
  vms: readonly SuspendedVm[],
  { suspendMiBPerS }: Pick<SiteFigures, 'suspendMiBPerS'>,
  nowS: number,
): SiteOperation {
  const freeAt = new Map<string, number>();
  const spans = vms.map(({ host, memoryMiB, slowness }) => {
    const fromS = freeAt.get(host) ?? nowS;
    const untilS = fromS + ceilSeconds((memoryMiB / suspendMiBPerS) * slowness);
    freeAt.set(host, untilS);
    return { host, fromS, untilS };
  });
  return { fromS: nowS, untilS: Math.max(nowS, ...spans.map(({ untilS }) => untilS)), vms: spans };
}
