import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { BerthError } from '../../model/errors.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import type { NetworkRef } from '../../model/vm.ts';
import type {
  Clock,
  DiskSource,
  DomainConfig,
  DomainStatus,
  GuestIdentity,
  GuestJob,
  HostPorts,
  JobEnd,
  VmPaths,
  VmRecord,
} from '../ports.ts';
import { createFakeClock } from './clock.ts';
import { createFakeMigrator } from './migrator.ts';
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

export type FakeDisk =
  | { kind: 'overlay'; backing: string; virtualMiB: number }
  | { kind: 'data'; sizeMiB: number; files: Map<string, Buffer>; unwritten: Map<string, Buffer> };

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
  identity: GuestIdentity | null;
  settled: boolean;
  /** `none` until one starts, `forbidden` after a stop without one. */
  job: FakeJob | 'none' | 'forbidden';
}

export interface FakeHostOptions {
  id: string;
  repository: FakeRepository;
  clock?: Clock;
  /** What commands do; by default they succeed in 50 ms and write out/result. */
  run?: (job: GuestJob, inputs: Map<string, Buffer>) => FakeRun;
  /** From a domain's creation to its agent's first answer. */
  bootMs?: number;
  /** What each call of a port takes. */
  latencyMs?: number;
  capacity?: { vcpus: number; memoryMiB: number; diskMiB: number };
}

export interface FakeHost {
  /** The hosts of its site by their address, this one among them: filled by whoever makes several. */
  mesh: Map<string, FakeHost>;
  /** What must never happen to a VM that moves, and did. */
  violations: string[];
  id: HostId;
  ports: HostPorts;
  domains: Map<string, FakeDomain>;
  disks: Map<string, FakeDisk>;
  records: Map<string, VmRecord>;
  inputs: Map<string, Map<string, Buffer>>;
  removed: Map<string, number>;
  quarantined: Map<string, number>;
  images: Map<string, { fetched: number }>;
  networks: Map<number, NetworkRef>;
  /** How many jobs ever ran, by VM: more than one breaks the promise that a command runs once. */
  jobsStarted: Map<string, number>;
  /** Refuses what the hypervisor of a target would refuse. */
  acceptIncoming(config: DomainConfig): void;
  /** The guest or its hypervisor dies. */
  crashDomain(name: string): void;
  /** What is left here of any VM: empty when all is undone. */
  leftovers(): string[];
}

const root = '/var/lib/berth';
const pathsOf = (vmId: string): VmPaths => ({
  folder: `${root}/vms/${vmId}`,
  overlay: `${root}/vms/${vmId}/disk.qcow2`,
  data: `${root}/vms/${vmId}/data.raw`,
  console: `${root}/vms/${vmId}/console.log`,
  inputs: `${root}/vms/${vmId}/inputs`,
});
const imagePath = (id: string, part: string): string => `${root}/images/${id}/${part}`;
const bridgeOf = (vni: number): string => `bg${vni.toString(16)}`;
/** A caller broke a precondition that the real thing may not notice: never retryable. */
const bug = (message: string): Error => new Error(`BUG: ${message}`);

/** An in-memory host that enforces what a real one needs, and can be looked into. */
export function createFakeHost(options: FakeHostOptions): FakeHost {
  const clock = options.clock ?? createFakeClock();
  const state = {
    id: options.id as HostId,
    domains: new Map<string, FakeDomain>(),
    disks: new Map<string, FakeDisk>(),
    records: new Map<string, VmRecord>(),
    inputs: new Map<string, Map<string, Buffer>>(),
    removed: new Map<string, number>(),
    quarantined: new Map<string, number>(),
    images: new Map<string, { fetched: number }>(),
    networks: new Map<number, NetworkRef>(),
    jobsStarted: new Map<string, number>(),
    mesh: new Map<string, FakeHost>(),
    violations: [] as string[],
  };
  const bootMs = options.bootMs ?? 200;
  const run = options.run ?? (() => ({ exitCode: 0, durationMs: 50, log: 'done\n', files: { 'out/result': 'done\n' } }));

  /** Whose disk a source is: this host's, or a peer's. */
  const disksOf = (source: DiskSource): Map<string, FakeDisk> | undefined =>
    source.kind === 'file' ? state.disks : state.mesh.get(source.host)?.disks;
  const liveUserOf = (path: string): FakeDomain | undefined => {
    const opens = (host: Pick<FakeHost, 'disks' | 'domains'>) =>
      [...host.domains.values()].find((domain) =>
        domain.config.disks
          .flatMap((disk) => [disk.source, ...disk.backing.map((one) => one.source)])
          .some((source) => source.path === path && (source.kind === 'file' ? host.disks : disksOf(source)) === state.disks),
      );
    const peers = [...state.mesh.values()].filter((peer) => peer.disks !== state.disks);
    return [state, ...peers].map(opens).find((user) => user !== undefined);
  };
  const refuseLive = (path: string, act: string): void => {
    const user = liveUserOf(path);
    if (user !== undefined) throw bug(`${act} ${path} under the live domain ${user.config.name}`);
  };
  const refuseLiveFolder = (vmId: string, act: string): void => {
    const paths = pathsOf(vmId);
    refuseLive(paths.overlay, act);
    refuseLive(paths.data, act);
  };
  const dropFolder = (vmId: string): void => {
    const paths = pathsOf(vmId);
    state.disks.delete(paths.overlay);
    state.disks.delete(paths.data);
    state.inputs.delete(vmId);
    state.records.delete(vmId);
  };
  const dataOf = (domain: FakeDomain) => {
    const source = domain.config.disks.find((one) => one.target === 'vdb')?.source;
    const disk = source === undefined ? undefined : disksOf(source)?.get(source.path);
    if (disk?.kind !== 'data') throw bug(`${domain.config.name} has no data disk`);
    return disk;
  };
  const live = (name: string): FakeDomain => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('vm-lost', `asking the agent of ${name}: there is no such domain`);
    if (clock.nowMs() - domain.createdMs < bootMs) throw new BerthError('host-busy', `the agent of ${name} doesn't answer yet`);
    advance(domain);
    return domain;
  };
  /** Brings a job to where it is by the clock. */
  const advance = (domain: FakeDomain): void => {
    const entry = domain.job;
    if (typeof entry === 'string' || entry.endedMs !== null) return;
    const endMs = entry.startedMs + entry.run.durationMs;
    const limitMs = entry.startedMs + entry.job.timeoutS * 1000;
    if (clock.nowMs() < Math.min(endMs, limitMs)) return;
    entry.timedOut = limitMs < endMs;
    entry.endedMs = Math.min(endMs, limitMs);
    if (!entry.timedOut && !domain.settled)
      for (const [path, text] of Object.entries(entry.run.files)) dataOf(domain).unwritten.set(path, Buffer.from(text));
  };

  const ports: HostPorts = {
    clock,
    store: {
      paths: pathsOf,
      read: async (vmId) => structuredClone(state.records.get(vmId) ?? null),
      async write(record) {
        state.records.set(record.vmId, structuredClone(record));
      },
      async emptyInputs(vmId) {
        if (!state.records.has(vmId)) throw bug(`inputs of ${vmId} before its record`);
        state.inputs.set(vmId, new Map());
        return pathsOf(vmId).inputs;
      },
      async removeInputs(vmId) {
        state.inputs.delete(vmId);
      },
      list: async () =>
        [...state.records.values()].map((record) => ({ vmId: record.vmId, record: structuredClone(record), bytes: 0 })),
      async remove(vmId, generation) {
        refuseLiveFolder(vmId, 'removing');
        state.removed.set(vmId, Math.max(generation, state.removed.get(vmId) ?? 0));
        dropFolder(vmId);
      },
      removedGeneration: async (vmId) => state.removed.get(vmId) ?? null,
      async quarantine(vmId) {
        refuseLiveFolder(vmId, 'quarantining');
        if (!state.records.has(vmId)) return;
        dropFolder(vmId);
        state.quarantined.set(vmId, clock.nowMs());
      },
      quarantined: async () => [...state.quarantined].map(([vmId, sinceMs]) => ({ vmId, sinceMs })),
      async removeQuarantined(vmId) {
        state.quarantined.delete(vmId);
      },
    },
    images: {
      async ensure(image, signal) {
        signal.throwIfAborted();
        const cached = state.images.get(image.id);
        if (cached !== undefined) return { from: 'cache', bytes: 0 };
        let bytes = 0;
        for (const part of Object.values(image.parts)) {
          const content = options.repository.sources.get(part.url);
          if (content === undefined)
            throw new BerthError('repository-unavailable', `fetching ${image.name}: nothing at ${part.url}`);
          if (createHash('sha256').update(content).digest('hex') !== part.sha256)
            throw new BerthError('image-damaged', `fetching ${image.name}: ${part.url} does not have its digest`);
          bytes += content.length;
        }
        state.images.set(image.id, { fetched: 1 });
        return { from: 'repository', bytes };
      },
      find: async (id) =>
        state.images.has(id)
          ? { disk: imagePath(id, 'disk.qcow2'), kernel: imagePath(id, 'kernel'), initrd: imagePath(id, 'initrd') }
          : null,
      list: async () => [...state.images.keys()] as ImageId[],
    },
    inputs: {
      async fetch(order, signal) {
        signal.throwIfAborted();
        const content = options.repository.sources.get(order.url);
        if (content === undefined) throw new BerthError('input-unavailable', `fetching ${order.url}: it answered 404`);
        if (content.length > order.limitBytes)
          throw new BerthError('inputs-too-large', `fetching ${order.url}: ${content.length} bytes, at most ${order.limitBytes}`);
        const sha256 = createHash('sha256').update(content).digest('hex');
        if (order.sha256 !== null && order.sha256 !== sha256)
          throw new BerthError('digest-mismatch', `fetching ${order.url}: expected ${order.sha256}, found ${sha256}`);
        const match = /\/vms\/([^/]+)\/inputs\/(.+)$/.exec(order.destination);
        const folder = match?.[1] === undefined ? undefined : state.inputs.get(match[1]);
        if (folder === undefined || match?.[2] === undefined) throw bug(`${order.destination} is in no folder of inputs`);
        folder.set(match[2], content);
        return { sizeBytes: content.length, sha256 };
      },
    },
    repository: options.repository,
    disks: {
      exists: async (path) => state.disks.has(path),
      async createOverlay(path, backing, virtualMiB) {
        refuseLive(path, 'overwriting');
        const image = /\/images\/([^/]+)\/disk\.qcow2$/.exec(backing)?.[1];
        if (image === undefined || !state.images.has(image)) throw bug(`an overlay on ${backing}, which isn't there`);
        state.disks.set(path, { kind: 'overlay', backing, virtualMiB });
      },
      async createDataDisk(path, folder, sizeMiB) {
        refuseLive(path, 'overwriting');
        const vmId = /\/vms\/([^/]+)\/inputs$/.exec(folder)?.[1];
        const files = vmId === undefined ? undefined : state.inputs.get(vmId);
        if (files === undefined) throw bug(`a data disk from ${folder}, which isn't there`);
        const bytes = [...files.values()].reduce((sum, content) => sum + content.length, 0);
        if (bytes > sizeMiB * 2 ** 20) throw new BerthError('inputs-too-large', `${bytes} bytes do not fit into ${sizeMiB} MiB`);
        state.disks.set(path, { kind: 'data', sizeMiB, files: new Map(files), unwritten: new Map() });
      },
      async listFiles(image, limitFiles) {
        const disk = state.disks.get(image);
        if (disk?.kind !== 'data') throw bug(`listing ${image}, which is no data disk`);
        refuseUnsettled(image);
        if (disk.files.size > limitFiles) throw new BerthError('outputs-refused', `${image} has more than ${limitFiles} files`);
        return [...disk.files].map(([path, content], index) => ({ path, inode: index + 12, sizeBytes: content.length }));
      },
      readFile(image, file) {
        const disk = state.disks.get(image);
        const content = disk?.kind === 'data' ? disk.files.get(file.path) : undefined;
        if (content === undefined) throw bug(`reading ${file.path} of ${image}, which isn't there`);
        refuseUnsettled(image);
        return Readable.from([content]);
      },
    },
    network: {
      async ensure(network) {
        state.networks.set(network.vni, structuredClone(network));
        return bridgeOf(network.vni);
      },
      async removeIdle(vni, needed) {
        if (await needed()) return;
        const busy = [...state.domains.values()].some((domain) => domain.config.nic.bridge === bridgeOf(vni));
        if (!busy) state.networks.delete(vni);
      },
      list: async () =>
        [...state.networks.keys()].map((vni) => ({
          bridge: bridgeOf(vni),
          vni,
          taps: [...state.domains.values()].filter((d) => d.config.nic.bridge === bridgeOf(vni)).map((d) => d.config.nic.tap),
        })),
    },
    hypervisor: {
      status: async (name) => structuredClone(state.domains.get(name)?.status ?? null),
      list: async () =>
        [...state.domains.values()].map((domain) => ({
          name: domain.config.name,
          uuid: domain.config.uuid,
          status: structuredClone(domain.status),
        })),
      async create(config) {
        for (const other of state.domains.values())
          for (const [what, mine, theirs] of [
            ['name', config.name, other.config.name],
            ['uuid', config.uuid, other.config.uuid],
            ['MAC', config.nic.mac, other.config.nic.mac],
            ['tap', config.nic.tap, other.config.nic.tap],
          ] as const)
            if (mine === theirs)
              throw new BerthError('not-ours', `creating ${config.name}: its ${what} ${mine} is in use by ${other.config.name}`);
        refuseMissingParts(config);
        for (const disk of config.disks) refuseLive(disk.source.path, 'opening');
        state.domains.set(config.name, {
          config: structuredClone(config),
          status: { state: 'running', reason: 'booted' },
          createdMs: clock.nowMs(),
          identity: null,
          settled: false,
          job: 'none',
        });
      },
      async destroy(name) {
        state.domains.delete(name);
      },
      async suspendCpus(name) {
        live(name).status = { state: 'paused', reason: 'user' };
      },
      async resumeCpus(name) {
        refuseSecond(name);
        live(name).status = { state: 'running', reason: 'unpaused' };
      },
      version: async () => 'fake 1.0',
    },
    migrator: createFakeMigrator({ clock, state, bug }),
    guest: {
      async ping(name) {
        const domain = state.domains.get(name);
        return domain !== undefined && clock.nowMs() - domain.createdMs >= bootMs;
      },
      async adopt(name, identity) {
        const domain = live(name);
        if (domain.settled) throw bug(`adopting ${name} after it was settled`);
        domain.identity = structuredClone(identity);
      },
      async startJob(name, job) {
        const domain = live(name);
        if (domain.identity === null) throw bug(`starting a job in ${name} before it has its identity`);
        if (domain.job !== 'none') return;
        const inputs = new Map(dataOf(domain).files);
        domain.job = { job, startedMs: clock.nowMs(), run: run(job, inputs), endedMs: null, timedOut: false, stopped: false };
        if (domain.job.run.notStarted !== undefined) domain.job.endedMs = clock.nowMs();
        else state.jobsStarted.set(name, (state.jobsStarted.get(name) ?? 0) + 1);
      },
      async jobEnd(name): Promise<JobEnd | null> {
        const entry = live(name).job;
        if (entry === 'forbidden') return { kind: 'notStarted', why: 'stopped before it started' };
        if (entry === 'none' || entry.endedMs === null) return null;
        if (entry.run.notStarted !== undefined) return { kind: 'notStarted', why: entry.run.notStarted };
        return {
          kind: 'exited',
          exitCode: entry.timedOut || entry.stopped ? 143 : entry.run.exitCode,
          timedOut: entry.timedOut,
          stopped: entry.stopped,
          seconds: (entry.endedMs - entry.startedMs) / 1000,
        };
      },
      async readLog(name, from, limit) {
        const entry = live(name).job;
        if (typeof entry === 'string') return Buffer.alloc(0);
        return Buffer.from(entry.run.log)
          .subarray(0, entry.job.logLimitBytes)
          .subarray(from, from + limit);
      },
      async stopJob(name) {
        const domain = live(name);
        if (domain.job === 'none') domain.job = 'forbidden';
        if (domain.job === 'forbidden' || domain.job.endedMs !== null) return;
        domain.job.endedMs = clock.nowMs();
        domain.job.stopped = true;
      },
      async settle(name) {
        const domain = live(name);
        const data = dataOf(domain);
        for (const [path, content] of data.unwritten) data.files.set(path, content);
        data.unwritten.clear();
        domain.settled = true;
      },
    },
    probe: {
      accelerator: async () => 'qemu',
      measure: async () => ({
        hostId: state.id,
        address: '10.77.0.1',
        provider: 'fake',
        capacity: options.capacity ?? { vcpus: 8, memoryMiB: 8192, diskMiB: 65_536 },
        reserve: { vcpus: 0, memoryMiB: 512, diskMiB: 2048 },
        cpuModel: 'fake',
        accelerator: 'qemu',
        hypervisor: 'fake 1.0',
        bootId: `boot-of-${options.id}`,
      }),
    },
  };

  /** A VM must never run while another copy of it exists. */
  function refuseSecond(name: string): void {
    const others = [...state.mesh.values()].filter((peer) => peer.disks !== state.disks && peer.domains.has(name));
    if (others.length === 0) return;
    state.violations.push(`${name} resumed on ${state.id} while ${others.map(({ id }) => id).join()} has a copy`);
    throw bug(state.violations.at(-1)!);
  }

  function refuseUnsettled(image: string): void {
    const user = liveUserOf(image);
    if (user !== undefined && !user.settled) throw bug(`reading ${image} while ${user.config.name} may still write to it`);
  }

  function refuseMissingParts(config: DomainConfig): void {
    for (const disk of config.disks) {
      const there = disksOf(disk.source)?.has(disk.source.path) === true;
      if (!there) throw new BerthError('hypervisor', `creating ${config.name}: its disk ${disk.source.path} isn't there`);
    }
    const image = /\/images\/([^/]+)\/kernel$/.exec(config.kernel)?.[1];
    if (image === undefined || !state.images.has(image))
      throw new BerthError('hypervisor', `creating ${config.name}: its kernel ${config.kernel} isn't there`);
    if (![...state.networks.keys()].some((vni) => bridgeOf(vni) === config.nic.bridge))
      throw new BerthError('hypervisor', `creating ${config.name}: there is no bridge ${config.nic.bridge}`);
  }

  const latencyMs = options.latencyMs ?? 0;
  return {
    ...state,
    ports: latencyMs === 0 ? ports : withLatency(ports, latencyMs),
    acceptIncoming: refuseMissingParts,
    crashDomain(name) {
      if (!state.domains.delete(name)) throw bug(`no domain ${name} to crash`);
    },
    leftovers: () => [
      ...[...state.domains.keys()].map((name) => `domain ${name}`),
      ...[...state.disks.keys()].map((path) => `disk ${path}`),
      ...[...state.records.keys()].map((id) => `record ${id}`),
      ...[...state.inputs.keys()].map((id) => `inputs ${id}`),
      ...[...state.networks.keys()].map((vni) => `network ${vni}`),
      ...[...state.quarantined.keys()].map((id) => `quarantined ${id}`),
    ],
  };
}

/** Every asynchronous call of every port takes `ms` of the clock before it acts. */
function withLatency(ports: HostPorts, ms: number): HostPorts {
  const slow = <P extends object>(port: P): P =>
    new Proxy(port, {
      get(target, key) {
        const value: unknown = Reflect.get(target, key);
        if (typeof value !== 'function' || value.constructor.name !== 'AsyncFunction') return value;
        return async (...args: unknown[]) => {
          await ports.clock.sleep(ms);
          return Reflect.apply(value, target, args) as unknown;
        };
      },
    });
  return {
    clock: ports.clock,
    store: slow(ports.store),
    images: slow(ports.images),
    inputs: slow(ports.inputs),
    repository: slow(ports.repository),
    disks: slow(ports.disks),
    network: slow(ports.network),
    hypervisor: slow(ports.hypervisor),
    migrator: slow(ports.migrator),
    guest: slow(ports.guest),
    probe: slow(ports.probe),
  };
}
