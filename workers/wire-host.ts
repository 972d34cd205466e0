import { Agent } from 'undici';
import { guard } from '../activities/failure.ts';
import { byReference } from '../activities/host/by-reference.ts';
import { isCrash } from '../activities/host/crash-guard.ts';
import { createHostActivities } from '../activities/host/index.ts';
import { watchDomains } from '../activities/host/site/watch-domains.ts';
import { inLanes } from '../activities/host/step-lanes.ts';
import type { HostCalls } from '../contracts/host-calls.ts';
import { openHost } from '../drivers/host/open-host.ts';
import { siteHosts } from '../drivers/network/site-hosts.ts';
import { reportLoad } from '../drivers/transfer/load/report-load.ts';
import { createMachineList } from '../drivers/transfer/machine-list.ts';
import { openStepArgs } from '../drivers/transfer/step-args.ts';
import type { readConfig } from '../model/config.ts';
import type { VmId } from '../model/ids.ts';
import type { WatchVerdict } from '../model/load/watch-verdict.ts';
import type { Logger } from '../model/log.ts';
import { HostWatchdog } from './load/host-watchdog.ts';
import { watchLoad } from './load/watch-load.ts';
import { startRepeating } from './repeat.ts';

export interface WiredHost {
  /** Wrapped for the Temporal worker: errors and heartbeats in their common form. */
  activities: HostCalls;
  /** Reports the VMs whose domains have changed without Berth, until it is aborted. */
  watchDomains: (report: (vmIds: VmId[]) => Promise<void>, signal: AbortSignal) => Promise<void>;
  /** Samples the load of the host and its VMs, reports it, and asks for help where it calls for that, until it is aborted. */
  watchLoad: (ask: (verdict: WatchVerdict) => void, signal: AbortSignal) => Promise<void>;
  close: () => Promise<void>;
}

type Config = ReturnType<typeof readConfig<'host' | 'temporal'>>;

/** How old the addresses of the site's names may be in the rules for guests' packets. */
const firewallIntervalMs = 60_000;
const machinesDeadlineMs = 30_000;

/** A host's activities over libvirt, QEMU, NFS and the kernel of this machine. Only here drivers are chosen. */
export async function wireHost({ host: config, temporal }: Pick<Config, 'host' | 'temporal'>, log: Logger): Promise<WiredHost> {
  const machines = createMachineList();
  const ports = await openHost(config, siteHosts(temporal.TEMPORAL_ADDRESS, config.BERTH_REPOSITORY_URL), machines, log);
  // At once as well: the guests of an earlier worker run on, under that worker's rules.
  const firewall = startRepeating({
    step: () => ports.guestFirewall.refresh().then(() => 'done'),
    intervalMs: firewallIntervalMs,
    log,
    failure: "the rules for guests' packets are not up to date",
    level: 'error',
  });
  const options = {
    repositoryUrl: config.BERTH_REPOSITORY_URL,
    hostId: config.BERTH_HOST_ID,
    keyFile: config.BERTH_HOST_KEY_FILE,
  };
  const dispatcher = new Agent();
  const { fetchStepArgs, updateMachines } = openStepArgs(dispatcher, options, machines);
  const networks = startRepeating({
    step: async () => {
      await updateMachines(AbortSignal.timeout(machinesDeadlineMs));
      await ports.network.updatePeers();
      return 'done';
    },
    intervalMs: () => machines.intervalMs(),
    log,
    failure: "guests' networks don't know which machines the site has now",
    level: 'warn',
  });
  return {
    activities: guard(byReference(inLanes(createHostActivities(ports, isCrash(config.BERTH_PREVIOUS_END))), fetchStepArgs)),
    watchDomains: (report, signal) => watchDomains(ports, { report, signal, clock: ports.clock }),
    watchLoad: (ask, signal) => {
      const watchdog = new HostWatchdog(() => machines.load());
      return watchLoad({
        meter: ports.loadMeter,
        clock: ports.clock,
        settings: () => machines.load(),
        send: (batch) => reportLoad(dispatcher, options, batch),
        onSample: (sample) => watchdog.observe(sample),
        ask,
        onVmLeft: () => watchdog.vmLeft(),
        log,
        signal,
      });
    },
    close: async () => {
      await Promise.all([firewall.stop(), networks.stop()]);
      await ports.close();
    },
  };
}
