import type { DiskSource, DomainConfig, DomainStatus } from '../../contracts/domain.ts';
import type { HostId } from '../../model/ids.ts';
import type { ColdCopyPass } from '../../model/migration.ts';
import type { NetworkRef, VmLoad } from '../../model/vm.ts';
import type { Clock } from '../ports/clock.ts';
import type { GuestIdentity, GuestJob, GuestSetup } from '../ports/guest.ts';
import type { VmPaths, VmRecord } from '../ports/vm-store.ts';
import type { FakeRepository } from './repository.ts';

/** What a fake command does: the files it leaves at /home/task, its log, and how long it takes. */
export interface FakeRun {
  exitCode: number;
  durationMs: number;
  log: string;
  files: Record<string, string>;
  /** There is no such program. */
  notStarted?: string;
}

export interface FakeDataDisk {
  kind: 'data';
  sizeMiB: number;
  files: Map<string, Buffer>;
  /** In the guest's memory still. */
  unwritten: Map<string, Buffer>;
}

/** `copyOf`: the template's disk whose content it has; else it is as empty as a new one. */
export type FakeDisk =
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
  /** By a boot, or from a template, whose identity it has until it is given its own. */
  bootKind: 'cold' | 'warm';
  /** Nothing in it is being started. */
  quiesced: boolean;
  identity: GuestIdentity | null;
  setup: GuestSetup | null;
  /** Whom cloud-init found in the seed, once it has looked. */
  seedRead: GuestIdentity | null;
  flushed: boolean;
  /** Changes with every boot. */
  bootCount: number;
  /** `none` until one starts, `forbidden` after a stop without one. */
  job: FakeJob | 'none' | 'forbidden';
}

/** What a save leaves in a file. */
export interface FakePack {
  memory: FakeMemory | null;
  disks: Map<string, FakeDisk>;
}

export interface FakeMemory {
  domain: FakeDomain;
  savedMs: number;
  /** False while it is being written, and for ever where that was interrupted. */
  complete: boolean;
}

/** Everything that a fake host is; the ports of drivers/fake work on it. */
export interface FakeState {
  id: HostId;
  clock: Clock;
  repository: FakeRepository;
  /** From a domain's creation to its agent's first answer. */
  bootMs: number;
  /** What commands do. */
  run: (job: GuestJob, inputs: Map<string, Buffer>) => FakeRun;
  domains: Map<string, FakeDomain>;
  disks: Map<string, FakeDisk>;
  records: Map<string, VmRecord>;
  inputs: Map<string, Map<string, Buffer>>;
  /** Guests' memories in files, by path. */
  memories: Map<string, FakeMemory>;
  /** What domains wrote to their serial ports, by path. */
  consoles: Map<string, string>;
  /** What domains do with their memory and processors, where a test says so. */
  loads: Map<string, Partial<VmLoad>>;
  /** Domains whose guest has died, or whose agent has: nothing answers. */
  unresponsive: Set<string>;
  /** Domains that write faster than their memory can be carried over. */
  nonConverging: Set<string>;
  /** VMs whose copy as files stands still half-way through one of its passes, and through which, for as long as they are in here. */
  heldPasses: Map<string, ColdCopyPass['kind']>;
  removed: Map<string, number>;
  quarantined: Map<string, number>;
  /** `boots`: has a kernel to boot from. */
  images: Map<string, { boots: boolean; pinnedUntilMs: number }>;
  /** The peers that each image could have come from when it was fetched. */
  peersOffered: Map<string, string[]>;
  /** The cache's budget is used up by what is needed. */
  cacheFull: { now: boolean };
  /** What is free on its disk. */
  freeDisk: { freeMiB: number };
  /** Templates by image and key; those that aren't ready were retired. */
  templates: Map<string, { ready: boolean; failures: number }>;
  /** What happens to a guest that starts from one. */
  templateFault: { kind: 'none' | 'refused' | 'silent' };
  networks: Map<number, NetworkRef>;
  /** How many jobs ever ran, by VM: more than one breaks the promise that a command runs once. */
  jobsStarted: Map<string, number>;
  /** What is packed here of each VM, and of which VMs earlier versions are kept. */
  packs: Map<string, FakePack>;
  previousVersions: Set<string>;
  /** The hosts of its site by their address, this one among them: filled by whoever makes several. */
  hostsByAddress: Map<string, FakeState>;
  /** It moves memory to its peers, and is never answered by one that it asks at the switch. */
  peersUnresponsive: { now: boolean };
  /** What must never happen to a VM that moves, and did. */
  violations: string[];
}

/** A caller broke a precondition that the real thing may not notice: never a BerthError, never retried. */
export const bug = (message: string): Error => new Error(`BUG: ${message}`);

const root = '/var/lib/berth';
export const imagePath = (id: string, part: string): string => `${root}/images/${id}/${part}`;
export const bridgeOf = (vni: number): string => `bg${vni.toString(16)}`;

export function pathsOf(vmId: string): VmPaths {
  const folder = `${root}/vms/${vmId}`;
  return {
    folder,
    overlay: `${folder}/disk.qcow2`,
    data: `${folder}/data.raw`,
    console: `${folder}/console.log`,
    identitySocket: `${folder}/identity`,
    inputs: `${folder}/inputs`,
    memory: `${folder}/memory.save`,
    memoryPartial: `${folder}/memory.save.partial`,
    templateMemory: `${folder}/template.memory`,
    templateState: `${folder}/template.state`,
    seed: `${folder}/seed.iso`,
    flat: `${folder}/flat.qcow2`,
  };
}

/** The disks that a source is among: this host's, or a peer's over NFS. */
export function disksAt(state: FakeState, source: DiskSource): Map<string, FakeDisk> | undefined {
  return source.kind === 'file' ? state.disks : state.hostsByAddress.get(source.host)?.disks;
}

/** The other hosts of the site; their maps are what they are known by. */
export function peersOf(state: FakeState): FakeState[] {
  return [...state.hostsByAddress.values()].filter((peer) => peer.domains !== state.domains);
}

/** The live domain that has this file open, as a disk or beneath one, here or at a peer. */
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
