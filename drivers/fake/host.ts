import type { HostId } from '../../model/ids.ts';
import type { Clock } from '../ports/clock.ts';
import type { HostPorts } from '../ports/host-ports.ts';
import type { HostProbe } from '../ports/host-probe.ts';
import { createFakeClock } from './clock.ts';
import { createFakeColdCopy } from './cold-copy.ts';
import { createFakeDiskMover } from './disk-mover.ts';
import { createFakeDiskTool } from './disk-tool.ts';
import { createFakeGuest } from './guest.ts';
import { createFakeNetwork } from './host-network.ts';
import { createFakeHypervisor } from './hypervisor.ts';
import { createFakeImageCache, createFakeInputFetcher } from './image-cache.ts';
import { createFakeMigrator } from './migrator.ts';
import type { FakeRepository } from './repository.ts';
import { bug, type FakeRun, type FakeState } from './state.ts';
import { createFakeTemplates } from './templates.ts';
import { createFakeVmStore } from './vm-store.ts';

export type { FakeRun } from './state.ts';

export interface FakeHostOptions {
  id: string;
  repository: FakeRepository;
  /** On the hosts' network; 10.77.0.1 unless said. */
  address?: string;
  clock?: Clock;
  /** By default commands succeed in 50 ms and write out/result. */
  run?: FakeState['run'];
  /** From a domain's creation to its agent's first answer; 200 ms unless said. */
  bootMs?: number;
  capacity?: { vcpus: number; memoryMiB: number; diskMiB: number };
}

/** A host in memory that enforces what a real one needs, and can be looked into. */
export interface FakeHost extends FakeState {
  ports: HostPorts;
  /** The guest or its hypervisor dies. */
  crashDomain(name: string): void;
  /** What is left here of any VM: empty when all is undone. */
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
    disks: new Map(),
    records: new Map(),
    inputs: new Map(),
    memories: new Map(),
    consoles: new Map(),
    loads: new Map(),
    unresponsive: new Set(),
    nonConverging: new Set(),
    heldPasses: new Map(),
    removed: new Map(),
    quarantined: new Map(),
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
    probe: createFakeProbe(state, options),
  };
  return {
    ...state,
    ports,
    crashDomain(name) {
      if (!state.domains.delete(name)) throw bug(`no domain ${name} to crash`);
    },
    leftovers: () => leftovers(state),
  };
}

function createFakeProbe({ id }: FakeState, { capacity, address }: FakeHostOptions): HostProbe {
  return {
    accelerator: async () => 'qemu',
    measure: async () => ({
      hostId: id,
      address: address ?? '10.77.0.1',
      provider: 'fake',
      capacity: capacity ?? { vcpus: 8, memoryMiB: 8192, diskMiB: 65_536 },
      reserve: { vcpus: 0, memoryMiB: 512, diskMiB: 2048 },
      cpuModel: 'fake',
      accelerator: 'qemu',
      hypervisor: 'fake 1.0',
      bootId: `boot-of-${id}`,
    }),
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
