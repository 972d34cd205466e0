import type { readConfig } from '../config.ts';

/** Quotas of an owner, with their columns: what its row says, or else the site's limit. */
export const quotaColumns = {
  bytes: 'maxBytes',
  queued: 'maxQueued',
  vms: 'maxVms',
  tasks: 'maxTasks',
  vcpus: 'maxVcpus',
  memoryMiB: 'maxMemoryMiB',
  diskMiB: 'maxDiskMiB',
  ports: 'maxPorts',
  webhooks: 'maxWebhooks',
  entries: 'maxEntries',
  reservedVcpuHours: 'maxReservedVcpuHours',
  horizonS: 'maxHorizonS',
} as const;

export type QuotaName = keyof typeof quotaColumns;
export const quotaNames = Object.keys(quotaColumns) as [QuotaName, ...QuotaName[]];
export type QuotaLimits = Record<QuotaName, number>;

/** The site's limits, as the API is configured. */
export function siteQuotas(api: ReturnType<typeof readConfig<'api'>>['api']): QuotaLimits {
  return {
    bytes: api.BERTH_QUOTA_BYTES,
    queued: api.BERTH_MAX_QUEUED_PER_OWNER,
    vms: api.BERTH_MAX_VMS_PER_OWNER,
    tasks: api.BERTH_MAX_TASKS_PER_OWNER,
    vcpus: api.BERTH_MAX_VCPUS_PER_OWNER,
    memoryMiB: api.BERTH_MAX_MEMORY_MIB_PER_OWNER,
    diskMiB: api.BERTH_MAX_DISK_MIB_PER_OWNER,
    ports: api.BERTH_MAX_PORTS_PER_OWNER,
    webhooks: api.BERTH_MAX_WEBHOOKS_PER_OWNER,
    entries: api.BERTH_MAX_ENTRIES_PER_OWNER,
    reservedVcpuHours: api.BERTH_MAX_RESERVED_VCPU_HOURS_PER_OWNER,
    horizonS: api.BERTH_MAX_HORIZON_DAYS * 86_400,
  };
}
