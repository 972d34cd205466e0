import type { DomainConfig, DomainStatus } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import { bridgeName } from '../network/addressing.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import {
  announce,
  bug,
  disksAt,
  endDomain,
  type FakeDomain,
  type FakeMemory,
  type FakeState,
  newDomain,
  peersOf,
  refuseLive,
} from './state.ts';

export function createFakeHypervisor(state: FakeState): Hypervisor {
  const setStatus = (name: string, status: DomainStatus): void => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('hypervisor', `there is no domain ${name}`);
    domain.status = status;
    announce(state, name);
  };
  return {
    status: async (name) => structuredClone(state.domains.get(name)?.status ?? null),
    list: async () =>
      [...state.domains.values()].map(({ config, status }) => ({
        name: config.name,
        uuid: config.uuid,
        status: structuredClone(status),
      })),
    async create(config) {
      refuseInUse(state, config);
      refuseMissing(state, config);
      for (const { source } of config.disks) refuseLive(state, source.path, 'opening');
      state.consoles.set(config.consoleLog, `${state.consoles.get(config.consoleLog) ?? ''}Linux boots ${config.name}\n`);
      state.domains.set(config.name, newDomain(config, 'cold', state.clock.nowMs()));
      announce(state, config.name);
    },
    async destroy(name) {
      endDomain(state, name, 'destroyed');
    },
    lastEnd: async (name) => (state.domains.has(name) ? null : structuredClone(state.ends.get(name) ?? null)),
    async watch(onChange, signal) {
      state.watchers.add(onChange);
      onChange(null);
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
      state.watchers.delete(onChange);
    },
    async pauseCpus(name) {
      const found = state.domains.get(name)?.status.state;
      if (found !== 'running' && found !== 'paused') throw new BerthError('hypervisor', `pausing ${name}: it is ${found}`);
      setStatus(name, { state: 'paused', reason: 'user' });
    },
    async resumeCpus(name) {
      refuseSecondCopy(state, name);
      setStatus(name, { state: 'running', reason: 'unpaused' });
    },
    async eject(name) {
      const cdrom = state.domains.get(name)?.config.cdrom;
      if (cdrom == null) throw new BerthError('hypervisor', `${name} has no CD-ROM drive`);
      if (cdrom.iso !== null && state.domains.get(name)?.seedRead === null) throw bug(`${name} has not read its seed yet`);
      cdrom.iso = null;
    },
    async reset(name) {
      const domain = state.domains.get(name);
      if (domain === undefined) throw new BerthError('hypervisor', `there is no domain ${name}`);
      rebootDomain(state, domain);
    },
    save: (name, file) => save(state, name, file),
    isSaved: async (file) => state.memories.get(file)?.complete === true,
    async restore(file, config) {
      const memory = state.memories.get(file);
      if (memory?.complete !== true) throw new BerthError('hypervisor', `restoring ${config.name}: ${file} has no saved domain`);
      refuseInUse(state, config);
      refuseMissing(state, config);
      refuseSecondCopy(state, config.name);
      for (const { source } of config.disks) refuseLive(state, source.path, 'opening');
      if (memory.domain.config.uuid !== config.uuid) throw bug(`${config.name} from the memory of ${memory.domain.config.name}`);
      const domain = structuredClone(memory.domain);
      // The guest's clock stood still.
      shiftTime(domain, state.clock.nowMs() - memory.savedMs);
      state.domains.set(config.name, {
        ...domain,
        config: structuredClone(config),
        status: { state: 'paused', reason: 'restored' },
      });
    },
    version: async () => 'fake 1.0',
  };
}

const savingSteps = 4;
const savingStepMs = 20;

/** A domain whose memory is being written is paused, and is gone once its memory is complete. */
async function save(state: FakeState, name: string, file: string): Promise<void> {
  const domain = state.domains.get(name);
  const refused = (why: string) => new BerthError('hypervisor', `virsh save ${name}: ${why}`);
  if (domain?.status.state !== 'running') throw refused('the domain is not running');
  if (!state.records.has(name)) throw refused(`no folder for ${file}`);
  domain.status = { state: 'paused', reason: 'saving' };
  const memory: FakeMemory = { domain, savedMs: state.clock.nowMs(), complete: false };
  state.memories.set(file, memory);
  for (let step = 0; step < savingSteps; step += 1) {
    await state.clock.sleep(savingStepMs);
    if (state.domains.get(name) !== domain) throw refused('the domain ended');
  }
  memory.domain = { ...structuredClone(domain), status: { state: 'running', reason: 'restored' } };
  memory.complete = true;
  endDomain(state, name, 'left');
}

/** Shifts a guest's start times by the time during which it was stopped. */
export function shiftTime(domain: FakeDomain, ms: number): void {
  domain.createdMs += ms;
  if (typeof domain.job === 'string') return;
  domain.job.startedMs += ms;
  if (domain.job.endedMs !== null) domain.job.endedMs += ms;
}

/** A reboot discards all that was in a guest's memory. */
export function rebootDomain(state: FakeState, domain: FakeDomain): void {
  if (domain.config.onReboot !== 'restart') {
    endDomain(state, domain.config.name, 'destroyed');
    return;
  }
  const rebooted = { createdMs: state.clock.nowMs(), bootKind: 'cold', identity: null, flushed: false, job: 'none' } as const;
  Object.assign(domain, { ...rebooted, bootCount: domain.bootCount + 1 } satisfies Partial<FakeDomain>);
}

/** Also refuses a start from a template. */
export function refuseInUse(state: FakeState, config: DomainConfig): void {
  for (const { config: other } of state.domains.values())
    for (const [what, mine, theirs] of [
      ['name', config.name, other.name],
      ['UUID', config.uuid, other.uuid],
      ['MAC', config.nic.mac, other.nic.mac],
      ['tap', config.nic.tap, other.nic.tap],
    ] as const)
      if (mine === theirs) throw new BerthError('not-ours', `creating ${config.name}: its ${what} is in use by ${other.name}`);
}

/** A VM must never run while another host has a domain of it. */
function refuseSecondCopy(state: FakeState, name: string): void {
  const others = peersOf(state).filter((peer) => peer.domains.has(name));
  if (others.length === 0) return;
  const violation = `${name} resumed on ${state.id} while ${others.map(({ id }) => id).join()} has a copy`;
  state.violations.push(violation);
  throw bug(violation);
}

/** Also refuses an incoming migration. */
export function refuseMissing(state: FakeState, config: DomainConfig): void {
  const lacks = (what: string): BerthError => new BerthError('hypervisor', `creating ${config.name}: there is no ${what}`);
  for (const { source } of config.disks) {
    if (disksAt(state, source)?.has(source.path) !== true) throw lacks(`disk ${source.path}`);
  }
  const iso = config.cdrom?.iso ?? null;
  if (iso !== null && state.disks.get(iso)?.kind !== 'seed') throw lacks(`ISO ${iso}`);
  if (config.kernel !== null) {
    const image = /\/images\/([^/]+)\/kernel$/.exec(config.kernel)?.[1];
    if (image === undefined || !state.images.has(image)) throw lacks(`kernel ${config.kernel}`);
  }
  if (config.nic.bridge !== null && ![...state.networks.keys()].some((vni) => bridgeName(vni) === config.nic.bridge))
    throw lacks(`bridge ${config.nic.bridge}`);
}
