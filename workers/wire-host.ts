import { guard } from '../activities/failure.ts';
import { createHostActivities } from '../activities/host/index.ts';
import type { HostActivities } from '../contracts/host.ts';
import { openHost } from '../drivers/host/open-host.ts';
import type { readConfig } from '../model/config.ts';
import type { Logger } from '../model/log.ts';

export interface WiredHost {
  /** Wrapped for the Temporal worker: errors and heartbeats in their common form. */
  activities: HostActivities;
  close: () => Promise<void>;
}

/** A host's activities over libvirt, QEMU, NFS and the kernel of this machine. Only here drivers are chosen. */
export async function wireHost(config: ReturnType<typeof readConfig<'host'>>['host'], log: Logger): Promise<WiredHost> {
  const ports = await openHost(config, log);
  return { activities: guard(createHostActivities(ports)), close: async () => ports.close() };
}
