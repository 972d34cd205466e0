import { guard } from '../activities/failure.ts';
import { isCrash } from '../activities/host/crash-guard.ts';
import { createHostActivities } from '../activities/host/index.ts';
import { watchDomains } from '../activities/host/site/watch-domains.ts';
import { inLanes } from '../activities/host/step-lanes.ts';
import type { HostActivities } from '../contracts/host.ts';
import { openHost } from '../drivers/host/open-host.ts';
import type { readConfig } from '../model/config.ts';
import type { VmId } from '../model/ids.ts';
import type { Logger } from '../model/log.ts';

export interface WiredHost {
  /** Wrapped for the Temporal worker: errors and heartbeats in their common form. */
  activities: HostActivities;
  /** Reports the VMs whose domains have changed without Berth, until it is aborted. */
  watchDomains: (report: (vmIds: VmId[]) => Promise<void>, signal: AbortSignal) => Promise<void>;
  close: () => Promise<void>;
}

/** A host's activities over libvirt, QEMU, NFS and the kernel of this machine. Only here drivers are chosen. */
export async function wireHost(config: ReturnType<typeof readConfig<'host'>>['host'], log: Logger): Promise<WiredHost> {
  const ports = await openHost(config, log);
  return {
    activities: guard(inLanes(createHostActivities(ports, isCrash(config.BERTH_PREVIOUS_END)))),
    watchDomains: (report, signal) => watchDomains(ports, { report, signal, clock: ports.clock }),
    close: async () => ports.close(),
  };
}
