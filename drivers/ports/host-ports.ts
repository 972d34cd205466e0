import type { Clock } from './clock.ts';
import type { ColdCopy } from './cold-copy.ts';
import type { DiskMover } from './disk-mover.ts';
import type { DiskTool } from './disk-tool.ts';
import type { Guest } from './guest.ts';
import type { HostNetwork } from './host-network.ts';
import type { HostProbe } from './host-probe.ts';
import type { Hypervisor } from './hypervisor.ts';
import type { ImageCache } from './image-cache.ts';
import type { InputFetcher } from './input-fetcher.ts';
import type { LoadMeter } from './load/load-meter.ts';
import type { Migrator } from './migrator.ts';
import type { Repository } from './repository.ts';
import type { StepMarks } from './step-marks.ts';
import type { ConsoleHistory, Streams } from './streams.ts';
import type { Templates } from './templates.ts';
import type { VmStore } from './vm-store.ts';

/**
 * The ports of a host: every effect of activities/host goes through one of these. drivers/ has the real ones, drivers/fake
 * the strict fake that enforces the same preconditions; test/contract runs one suite against both. Errors are BerthErrors; sizes are in bytes unless the name says MiB (2^20 bytes); times in ms since 1970.
 */
export interface HostPorts {
  clock: Clock;
  store: VmStore;
  imageCache: ImageCache;
  templates: Templates;
  inputFetcher: InputFetcher;
  repository: Repository;
  diskTool: DiskTool;
  network: HostNetwork;
  hypervisor: Hypervisor;
  migrator: Migrator;
  diskMover: DiskMover;
  coldCopy: ColdCopy;
  guest: Guest;
  probe: HostProbe;
  stepMarks: StepMarks;
  streams: Streams;
  consoleHistory: ConsoleHistory;
  loadMeter: LoadMeter;
}
