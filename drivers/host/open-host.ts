import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Agent } from 'undici';
import type { readConfig } from '../../model/config.ts';
import type { HostId } from '../../model/ids.ts';
import type { Logger } from '../../model/log.ts';
import { maxTailBytes } from '../../model/streams/console.ts';
import { openDiskTool } from '../disk/disk-tool.ts';
import { openAgentCalls } from '../guest/agent-calls.ts';
import { openGuest } from '../guest/guest.ts';
import { openGuestAgent } from '../guest/guest-agent.ts';
import { openConsoleHistory } from '../guest/streams/console-history.ts';
import { streamPortName } from '../guest/streams/guest-port.ts';
import { openStreams } from '../guest/streams/streams.ts';
import { readChannelState } from '../libvirt/channel-state.ts';
import { openDiskMover } from '../libvirt/disk-mover.ts';
import { readDomainStats } from '../libvirt/domain-stats.ts';
import { libvirtUri, openHypervisor } from '../libvirt/hypervisor.ts';
import { openMigrator } from '../libvirt/migrator.ts';
import { openTemplates } from '../libvirt/templates.ts';
import { openVirsh } from '../libvirt/virsh.ts';
import { type GuestFirewall, openGuestFirewall } from '../network/guest-firewall.ts';
import { openNetwork } from '../network/host-network.ts';
import { hostNameservers } from '../network/nameservers.ts';
import type { HostNetwork } from '../ports/host-network.ts';
import type { HostPorts } from '../ports/host-ports.ts';
import type { VmStore } from '../ports/vm-store.ts';
import { openColdCopy } from '../transfer/cold-copy.ts';
import { openImageCache } from '../transfer/image-cache.ts';
import { openInputFetcher } from '../transfer/input-fetcher.ts';
import type { MachineList } from '../transfer/machine-list.ts';
import { copyOverNfs, quickStallPolicy } from '../transfer/nfs-copy.ts';
import { openRepository } from '../transfer/repository.ts';
import { systemClock } from './clock.ts';
import { exists } from './files.ts';
import { readGuestGroup } from './guest-group.ts';
import { openHostProbe } from './host-probe.ts';
import { readMachineCounters } from './machine-counters.ts';
import { openStepMarks } from './step-marks.ts';
import { openVmStore } from './vm-store.ts';

type HostConfig = ReturnType<typeof readConfig<'host'>>['host'];

/** Makes the folders of docs/design.md, "On a host", and removes what an earlier worker left in staging/. */
async function prepareFolders(root: string): Promise<void> {
  for (const name of ['images', 'vms', 'staging', 'removed', 'quarantine']) await mkdir(join(root, name), { recursive: true });
  const staging = join(root, 'staging');
  await Promise.all((await readdir(staging)).map((name) => rm(join(staging, name), { recursive: true, force: true })));
}

/** Removes networks that a killed worker left: no request names them any more once their last VM's record is removed. */
async function removeIdleNetworks(network: HostNetwork, store: VmStore): Promise<void> {
  for (const { vni, taps } of await network.list())
    if (taps.length === 0)
      await network.removeIfIdle(vni, async () => (await store.list()).some(({ record }) => record?.vni === vni));
}

/** Calls of guests' agents at a time: of guests that answer, and of those that were slow or silent lately. */
const agentPlaces = { quick: 24, slow: 6 };

/**
 * Opens all ports of the machine, or of the namespaces, in which this process runs. One worker a host: it owns staging/.
 * @param siteHosts names or addresses of the services that the host uses, which its guests must not reach
 * @param machines to which the owners' networks flood
 */
export async function openHost(
  config: HostConfig,
  siteHosts: readonly string[],
  machines: Pick<MachineList, 'others'>,
  log: Logger,
): Promise<HostPorts & { guestFirewall: GuestFirewall; close(): Promise<void> }> {
  const root = config.BERTH_DISK;
  await prepareFolders(root);
  const virsh = openVirsh(libvirtUri, 6);
  // Apart: a guest determines how long its agent takes, and must not delay other calls.
  const agentVirsh = openVirsh(libvirtUri, agentPlaces.quick);
  const slowAgentVirsh = openVirsh(libvirtUri, agentPlaces.slow);
  const agentCalls = openAgentCalls(agentVirsh, slowAgentVirsh, agentPlaces);
  // A migration or a save holds its process for as long as it lasts; calls to guests must not wait for that.
  const longVirsh = openVirsh(libvirtUri, 8);
  // A restore holds its process, too, and must not wait for a migration.
  const restoreVirsh = openVirsh(libvirtUri, 4);
  const dispatcher = new Agent({ connections: 32, keepAliveTimeout: 30_000 });
  const store = openVmStore(root);
  const hypervisor = openHypervisor(virsh, longVirsh, join(root, 'staging'));
  const images = openImageCache({ root, budgetMiB: config.BERTH_IMAGE_CACHE_MIB, store, repository: dispatcher, log });
  const nameservers = await hostNameservers();
  if (nameservers.length === 0)
    log.warn('no resolver that guests reach is in /etc/resolv.conf, nor known to systemd-resolved: guests resolve no names');
  const guestFirewall = openGuestFirewall({
    hostsCidr: config.BERTH_HOSTS_CIDR,
    guestSupernet: config.BERTH_GUEST_SUPERNET,
    nameservers,
    siteHosts,
    siteCidrs: config.BERTH_SITE_CIDRS,
    exceptions: config.BERTH_GUEST_REACHES,
  });
  const network = openNetwork({ address: config.BERTH_HOST_ADDRESS, firewall: guestFirewall, peers: machines.others });
  await removeIdleNetworks(network, store);
  const agent = openGuestAgent(agentCalls);
  const consoleHistory = await openConsoleHistory({
    root,
    host: config.BERTH_HOST_ID,
    pathOf: (vmId) => store.paths(vmId).console,
    listIds: () => store.listIds(),
    copy: (from, destination) => copyOverNfs({ ...from, destination, sizeBytes: maxTailBytes }, quickStallPolicy),
    log,
  });
  const streams = openStreams({
    agent,
    host: config.BERTH_HOST_ID,
    pathsOf: (domain) => store.paths(domain),
    channelState: (domain) => readChannelState(virsh, domain, streamPortName),
    consoleHistory,
    apiUrl: config.BERTH_REPOSITORY_URL,
    log,
  });
  return {
    clock: systemClock,
    store,
    imageCache: images,
    templates: openTemplates({ root, virsh: restoreVirsh, hypervisor, log }),
    inputFetcher: openInputFetcher(dispatcher),
    repository: openRepository(dispatcher),
    diskTool: openDiskTool(),
    network,
    guestFirewall,
    hypervisor,
    migrator: openMigrator(longVirsh, join(root, 'staging'), config.BERTH_MIGRATION_MIB_PER_S || null),
    coldCopy: openColdCopy(root, store, config.BERTH_KEPT_VERSIONS_MIB),
    diskMover: openDiskMover(longVirsh, join(root, 'staging'), config.BERTH_MIGRATION_MIB_PER_S || null),
    guest: openGuest(agent, nameservers, (domain) => store.paths(domain).identitySocket),
    stepMarks: openStepMarks(root),
    streams,
    consoleHistory,
    loadMeter: {
      nowMs: () => performance.now(),
      readMachine: async () => readMachineCounters(root, await readGuestGroup(config.BERTH_GUEST_GROUP)),
      readDomains: () => readDomainStats(virsh, (name) => exists(store.paths(name).overlay)),
    },
    probe: openHostProbe({
      hostId: config.BERTH_HOST_ID as HostId,
      address: config.BERTH_HOST_ADDRESS,
      provider: config.BERTH_PROVIDER,
      joinToken: config.BERTH_JOIN_TOKEN,
      root,
      reserve: {
        vcpus: config.BERTH_RESERVE_VCPUS,
        memoryMiB: config.BERTH_RESERVE_MEMORY_MIB,
        diskMiB: config.BERTH_RESERVE_DISK_MIB,
      },
      capacityShare: config.BERTH_HOST_SHARE,
      vcpuRatio: config.BERTH_VCPU_RATIO,
      hypervisor,
      images,
      store,
      otherMachines: () => machines.others()?.length ?? null,
    }),
    async close() {
      streams.close();
      consoleHistory.close();
      virsh.close();
      agentVirsh.close();
      slowAgentVirsh.close();
      longVirsh.close();
      restoreVirsh.close();
      await dispatcher.close();
    },
  };
}
