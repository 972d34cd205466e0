import type { DiskSource, DomainConfig, DomainEnd, DomainStatus } from '../../contracts/domain.ts';
import type { EarlierConsole } from '../../contracts/host-migration.ts';
import type { StreamOrder } from '../../contracts/stream.ts';
import type { HostId } from '../../model/ids.ts';
import type { ColdCopyPass } from '../../model/migration.ts';
import type { NetworkRef, VmLoad } from '../../model/vm.ts';
import { vmPathsIn } from '../host/vm-paths.ts';
import type { Clock } from '../ports/clock.ts';
import type { GuestIdentity, GuestJob, GuestSetup } from '../ports/guest.ts';
import type { StepMark } from '../ports/step-marks.ts';
import type { VmPaths, VmRecord } from '../ports/vm-store.ts';
import type { FakeRepository } from './repository.ts';

/** What a fake command does: the files it leaves at /home/task, its log, and how long it takes. */
export interface FakeRun {
  exitCode: number;
  /** The signal that ended it, where one did. */
  signal?: number;
  durationMs: number;
  log: string;
  files: Record<string, string>;
  /** Files that it writes as soon as it starts. */
  early?: Record<string, string>;
  /** There is no such program. */
  notStarted?: string;
}

export interface FakeDataDisk {
  kind: 'data';
  sizeMiB: number;
  files: Map<string, Buffer>;
  /** Still in the guest's memory. */
  unwritten: Map<string, Buffer>;
}

/** `copyOf`: the template's disk whose content it has; else it is as empty as a new one. */
type FakeDisk =
  | { kind: 'overlay'; backing: string; virtualMiB: number; copyOf?: string }
  | { kind: 'seed'; identity: GuestIdentity }
  | { kind: 'flat'; content: Buffer; virtualMiB: number }
  | FakeDataDisk;

export interface FakeJob {
  job: GuestJob;
  startedMs: number;
  run: FakeRun;
  endedMs: number | null;
  timedOut: boolean;
  stopped: boolean;
}

export interface FakeDomain {
  config: DomainConfig;
  status: DomainStatus;
  createdMs: number;
  /** `warm`: from a template, whose identity it has until its own is applied. */
  bootKind: 'cold' | 'warm';
  /** No unit is being started in it. */
  quiesced: boolean;
  identity: GuestIdentity | null;
  setup: GuestSetup | null;
  /** The identity that cloud-init has read from the seed. */
  seedRead: GuestIdentity | null;
  flushed: boolean;
  /** Changes with every boot. */
  bootCount: number;
  /** `none` until one starts, `forbidden` after a stop without one. */
  job: FakeJob | 'none' | 'forbidden';
}

/** A pack of a cold copy: the content of a VM's files. */
interface FakePack {
  memory: FakeMemory | null;
  disks: Map<string, FakeDisk>;
}

/** The content of a file that a save writes. */
export interface FakeMemory {
  domain: FakeDomain;
  savedMs: number;
  /** False while it is being written, and after an interrupted save. */
  complete: boolean;
}

/** The state of a fake host, on which the ports of drivers/fake work. */
export interface FakeState {
  id: HostId;
  clock: Clock;
  repository: FakeRepository;
  /** From a domain's creation to its agent's first answer. */
  bootMs: number;
  /** What commands do. */
  run: (job: GuestJob, inputs: Map<string, Buffer>) => FakeRun;
  domains: Map<string, FakeDomain>;
  /** How domains ended, as the hypervisor's log says. */
  ends: Map<string, DomainEnd>;
  /** Those who watch the domains. */
  watchers: Set<(name: string | null) => void>;
  /** By how much its machine's clock is ahead. */
  skew: { ms: number };
  /** When this machine was booted, and how often. */
  boot: { atMs: number; count: number };
  disks: Map<string, FakeDisk>;
  records: Map<string, VmRecord>;
  inputs: Map<string, Map<string, Buffer>>;
  /** Saved memories, by the path of their files. */
  memories: Map<string, FakeMemory>;
  /** What domains wrote to their serial ports, by path. */
  consoles: Map<string, string>;
  /** Histories of consoles: what is here, what is expected, and what is kept for the new hosts of VMs that have left. */
  histories: Map<string, string>;
  expectedHistories: Map<string, EarlierConsole>;
  keptHistories: Map<string, string>;
  /** The loads of domains, where a test sets them. */
  loads: Map<string, Partial<VmLoad>>;
  /** Domains whose agent doesn't answer. */
  unresponsive: Set<string>;
  /** Domains that write faster than their memory can be migrated. */
  nonConverging: Set<string>;
  /** VMs whose cold copy stops half-way through this kind of pass, for as long as they are in this map. */
  heldPasses: Map<string, ColdCopyPass['kind']>;
  removed: Map<string, number>;
  quarantined: Map<string, number>;
  stepMarks: StepMark[];
  /** What clients were connected with, in this order. */
  streams: { domain: string; order: StreamOrder }[];
  /** `boots`: has a kernel to boot from. */
  images: Map<string, { boots: boolean; pinnedUntilMs: number }>;
  /** The peers that each image could have come from when it was fetched. */
  peersOffered: Map<string, string[]>;
  /** The cache's budget is used up by what is needed. */
  cacheFull: { now: boolean };
  /** The free space of its disk. */
  freeDisk: { freeMiB: number };
  /** Templates by image and key; those that aren't ready were retired. */
  templates: Map<string, { ready: boolean; failures: number }>;
  /** What happens to a guest that starts from one. */
  templateFault: { kind: 'none' | 'refused' | 'silent' };
  networks: Map<number, NetworkRef>;
  /** How many jobs ever ran, by VM: more than one breaks the promise that a command runs once. */
  jobsStarted: Map<string, number>;
  /** Packs on this host by VM, and the VMs with a previous version here. */
  packs: Map<string, FakePack>;
  previousVersions: Set<string>;
  /** All hosts of the site by address, including this one; filled by tests with several hosts. */
  hostsByAddress: Map<string, FakeState>;
  /** Peers accept migrations from this host, and don't answer its calls during the hand-over. */
  peersUnresponsive: { now: boolean };
  /** Broken guarantees of a migration. */
  violations: string[];
}

/** A caller broke a precondition that a real port may not check: never a BerthError, never retried. */
export const bug = (message: string): Error => new Error(`BUG: ${message}`);

const root = '/var/lib/berth';
export const imagePath = (id: string, part: string): string => `${root}/images/${id}/${part}`;

export const pathsOf = (vmId: string): VmPaths => vmPathsIn(`${root}/vms/${vmId}`);

/** A domain that has just been started; `cold` ones boot, `warm` ones run already. */
export function newDomain(config: DomainConfig, bootKind: FakeDomain['bootKind'], createdMs: number): FakeDomain {
  return {
    config: structuredClone(config),
    status: { state: 'running', reason: bootKind === 'cold' ? 'booted' : 'restored' },
    createdMs,
    bootKind,
    quiesced: bootKind === 'warm',
    identity: null,
    setup: null,
    seedRead: null,
    flushed: false,
    bootCount: 1,
    job: 'none',
  };
}

const defaultBusyCpus = 0.5;

/** The processors that a domain keeps busy. */
export const fakeBusyCpus = ({ loads }: Pick<FakeState, 'loads'>, name: string): number =>
  loads.get(name)?.busyCpus ?? defaultBusyCpus;

/** A domain's state has changed. */
export function announce(state: FakeState, name: string): void {
  for (const watcher of state.watchers) watcher(name);
}

/** A domain ends: the hypervisor's log says how. */
export function endDomain(state: FakeState, name: string, how: DomainEnd['how']): void {
  const domain = state.domains.get(name);
  if (domain === undefined) return;
  state.domains.delete(name);
  state.ends.set(name, { how, startedMs: domain.createdMs, endedMs: state.clock.nowMs() });
  announce(state, name);
}

/** The disks of the host that a source is on: this host, or a peer over NFS. */
export function disksAt(state: FakeState, source: DiskSource): Map<string, FakeDisk> | undefined {
  return source.kind === 'file' ? state.disks : state.hostsByAddress.get(source.host)?.disks;
}

/** The other hosts of the site; hosts are compared by their maps. */
export function peersOf(state: FakeState): FakeState[] {
  return [...state.hostsByAddress.values()].filter((peer) => peer.domains !== state.domains);
}

/** The live domain that has this file open, as a disk or in a backing chain, here or at a peer. */
export function liveUserOf(state: FakeState, path: string): FakeDomain | undefined {
  const opens =
    (host: FakeState) =>
    ({ config }: FakeDomain): boolean =>
      config.disks
        .flatMap(({ source, backing }) => [source, ...backing.map((below) => below.source)])
        .some((from) => from.path === path && disksAt(host, from) === state.disks);
  return [state, ...peersOf(state)].flatMap((host) => [...host.domains.values()].filter(opens(host)))[0];
}

export function refuseLive(state: FakeState, path: string, act: string): void {
  const user = liveUserOf(state, path);
  if (user !== undefined) throw bug(`${act} ${path} under the live domain ${user.config.name}`);
}
