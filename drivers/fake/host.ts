import type { DomainStatus } from '../../contracts/domain.ts';
import type { HostId } from '../../model/ids.ts';
import type { Clock } from '../ports/clock.ts';
import type { HostPorts } from '../ports/host-ports.ts';
import { createFakeClock } from './clock.ts';
import { createFakeColdCopy } from './cold-copy.ts';
import { createFakeDiskMover } from './disk-mover.ts';
import { createFakeDiskTool } from './disk-tool.ts';
import { createFakeGuest } from './guest.ts';
import { createFakeNetwork } from './host-network.ts';
import { createFakeHostProbe } from './host-probe.ts';
import { createFakeHypervisor } from './hypervisor.ts';
import { createFakeImageCache } from './image-cache.ts';
import { createFakeInputFetcher } from './input-fetcher.ts';
import { createFakeLoadMeter } from './load/load-meter.ts';
import { createFakeMigrator } from './migrator.ts';
import type { FakeRepository } from './repository.ts';
import { announce, bug, endDomain, type FakeRun, type FakeState } from './state.ts';
import { createFakeStepMarks } from './step-marks.ts';
import { createFakeConsoleHistory, createFakeStreams } from './streams.ts';
import { createFakeTemplates } from './templates.ts';
import { createFakeVmStore } from './vm-store.ts';

export type { FakeRun } from './state.ts';

export interface FakeHostOptions {
  id: string;
  repository: FakeRepository;
  /** On the hosts' network; 10.77.0.1 by default. */
  address?: string;
  clock?: Clock;
  /** By default commands succeed in 50 ms and write out/result. */
  run?: FakeState['run'];
  /** From a domain's creation to its agent's first answer; 200 ms by default. */
  bootMs?: number;
  capacity?: { vcpus: number; memoryMiB: number; diskMiB: number };
}

/** A host in memory that enforces the preconditions of a real one; tests read its state. */
export interface FakeHost extends FakeState {
  ports: HostPorts;
  /** Ends a domain as a crash of its guest or of QEMU would. */
  crashDomain(name: string): void;
  /** Its guest switches itself off. */
  powerOff(name: string): void;
  /** A domain's state changes, without Berth. */
  changeDomain(name: string, status: DomainStatus): void;
  /** The machine is rebooted: no domain outlives it. */
  restartMachine(): void;
  /** What this host has of any VM: empty when all is undone. */
  leftovers(): string[];
}

const defaultRun = (): FakeRun => ({ exitCode: 0, durationMs: 50, log: 'done\n', files: { 'out/result': 'done\n' } });

export function createFakeHost(options: FakeHostOptions): FakeHost {
  const state: FakeState = {
    id: options.id as HostId,
    clock: options.clock ?? createFakeClock(),
    repository: options.repository,
    bootMs: options.bootMs ?? 200,
    run: options.run ?? defaultRun,
    domains: new Map(),
    ends: new Map(),
    watchers: new Set(),
    skew: { ms: 0 },
    boot: { atMs: 0, count: 1 },
    disks: new Map(),
    records: new Map(),
    inputs: new Map(),
    memories: new Map(),
    consoles: new Map(),
    histories: new Map(),
    expectedHistories: new Map(),
    keptHistories: new Map(),
    loads: new Map(),
    unresponsive: new Set(),
    nonConverging: new Set(),
    heldPasses: new Map(),
    removed: new Map(),
    quarantined: new Map(),
    stepMarks: [],
    streams: [],
    images: new Map(),
    peersOffered: new Map(),
    cacheFull: { now: false },
    peersUnresponsive: { now: false },
    freeDisk: { freeMiB: 65_536 },
    templates: new Map(),
    templateFault: { kind: 'none' },
    networks: new Map(),
    jobsStarted: new Map(),
    packs: new Map(),
    previousVersions: new Set(),
    hostsByAddress: new Map(),
    violations: [],
  };
  const ports: HostPorts = {
    clock: state.clock,
    store: createFakeVmStore(state),
    imageCache: createFakeImageCache(state),
    templates: createFakeTemplates(state),
    inputFetcher: createFakeInputFetcher(state),
    repository: state.repository,
    diskTool: createFakeDiskTool(state),
    network: createFakeNetwork(state),
    hypervisor: createFakeHypervisor(state),
    migrator: createFakeMigrator(state),
    diskMover: createFakeDiskMover(state),
    coldCopy: createFakeColdCopy(state),
    guest: createFakeGuest(state),
    probe: createFakeHostProbe(state, options),
    stepMarks: createFakeStepMarks(state),
    streams: createFakeStreams(state),
    consoleHistory: createFakeConsoleHistory(state),
    loadMeter: createFakeLoadMeter(state, options.capacity),
  };
  return {
    ...state,
    ports,
    crashDomain(name) {
      if (!state.domains.has(name)) throw bug(`no domain ${name} to crash`);
      endDomain(state, name, 'crashed');
    },
    powerOff(name) {
      if (!state.domains.has(name)) throw bug(`no domain ${name} to power off`);
      endDomain(state, name, 'poweredOff');
    },
    changeDomain(name, status) {
      const domain = state.domains.get(name);
      if (domain === undefined) throw bug(`no domain ${name} to change`);
      domain.status = status;
      announce(state, name);
    },
    restartMachine() {
      state.boot.count += 1;
      for (const name of [...state.domains.keys()]) endDomain(state, name, 'unknown');
      state.boot.atMs = state.clock.nowMs() + 1;
    },
    leftovers: () => leftovers(state),
  };
}

function leftovers(state: FakeState): string[] {
  const named = (what: string, keys: Iterable<unknown>): string[] => [...keys].map((key) => `${what} ${String(key)}`);
  return [
    ...named('domain', state.domains.keys()),
    ...named('disk', state.disks.keys()),
    ...named('record', state.records.keys()),
    ...named('inputs', state.inputs.keys()),
    ...named('memory', state.memories.keys()),
    ...named('network', state.networks.keys()),
    ...named('quarantined', state.quarantined.keys()),
  ];
}
