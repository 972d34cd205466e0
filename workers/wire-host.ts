import { guard } from '../activities/failure.ts';
import { createHostActivities } from '../activities/host/index.ts';
import type { HostActivities } from '../contracts/host.ts';
import { openHost } from '../drivers/host/open-host.ts';
import type { readConfig } from '../model/config.ts';
import type { Logger } from '../model/log.ts';

/** The one place where drivers are chosen. */
export interface WiredHost {
  /** As the Temporal worker takes them: errors and heartbeats in their one form. */
  activities: HostActivities;
  close: () => Promise<void>;
}

/** A host's activities over libvirt, QEMU, NFS and the kernel of the machine on which this runs. */
export async function wireHost(config: ReturnType<typeof readConfig<'host'>>['host'], log: Logger): Promise<WiredHost> {
  const ports = await openHost(config, log);
  return { activities: guard(createHostActivities(ports)), close: async () => ports.close() };
}
