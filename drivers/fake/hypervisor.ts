import type { DomainConfig, DomainStatus } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import { bridgeOf, bug, disksAt, type FakeDomain, type FakeMemory, type FakeState, peersOf, refuseLive } from './state.ts';

export function createFakeHypervisor(state: FakeState): Hypervisor {
  const setStatus = (name: string, status: DomainStatus): void => {
    const domain = state.domains.get(name);
    if (domain === undefined) throw new BerthError('hypervisor', `there is no domain ${name}`);
    domain.status = status;
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
      state.domains.set(config.name, {
        config: structuredClone(config),
        status: { state: 'running', reason: 'booted' },
        createdMs: state.clock.nowMs(),
        bootKind: 'cold',
        quiesced: false,
        identity: null,
        setup: null,
        seedRead: null,
        flushed: false,
        bootCount: 1,
        job: 'none',
      });
    },
    async destroy(name) {
      state.domains.delete(name);
    },
    pauseCpus: async (name) => setStatus(name, { state: 'paused', reason: 'user' }),
    async resumeCpus(name) {
      refuseSecondCopy(state, name);
      setStatus(name, { state: 'running', reason: 'unpaused' });
    },
    async eject(name) {
      const drive = state.domains.get(name)?.config.cdrom;
      if (drive == null) throw new BerthError('hypervisor', `${name} has no drive`);
      if (drive.iso !== null && state.domains.get(name)?.seedRead === null) throw bug(`${name} has not read its seed yet`);
      drive.iso = null;
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
      // Its own time stood still.
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

/** A domain whose memory is being written is paused, and is gone once all of it is there. */
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
  state.domains.delete(name);
}

/** What a guest counts from, moved by the time that it did not see. */
export function shiftTime(domain: FakeDomain, ms: number): void {
  domain.createdMs += ms;
  if (typeof domain.job === 'string') return;
  domain.job.startedMs += ms;
  if (domain.job.endedMs !== null) domain.job.endedMs += ms;
}

/** A guest that boots has forgotten all that was in its memory. */
export function rebootDomain(state: FakeState, domain: FakeDomain): void {
  if (domain.config.onReboot !== 'restart') {
    state.domains.delete(domain.config.name);
    return;
  }
  const anew = { createdMs: state.clock.nowMs(), bootKind: 'cold', identity: null, flushed: false, job: 'none' } as const;
  Object.assign(domain, { ...anew, bootCount: domain.bootCount + 1 } satisfies Partial<FakeDomain>);
}

/** Also what starting from a template is refused for. */
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

/** A VM must never run while another copy of it exists. */
function refuseSecondCopy(state: FakeState, name: string): void {
  const others = peersOf(state).filter((peer) => peer.domains.has(name));
  if (others.length === 0) return;
  const violation = `${name} resumed on ${state.id} while ${others.map(({ id }) => id).join()} has a copy`;
  state.violations.push(violation);
  throw bug(violation);
}

/** Also what the hypervisor of a migration's target refuses. */
export function refuseMissing(state: FakeState, config: DomainConfig): void {
  const lacks = (what: string): BerthError => new BerthError('hypervisor', `creating ${config.name}: there is no ${what}`);
  for (const { source } of config.disks) {
    if (disksAt(state, source)?.has(source.path) !== true) throw lacks(`disk ${source.path}`);
  }
  const disc = config.cdrom?.iso ?? null;
  if (disc !== null && state.disks.get(disc)?.kind !== 'seed') throw lacks(`disc ${disc}`);
  if (config.kernel !== null) {
    const image = /\/images\/([^/]+)\/kernel$/.exec(config.kernel)?.[1];
    if (image === undefined || !state.images.has(image)) throw lacks(`kernel ${config.kernel}`);
  }
  if (config.nic.bridge !== null && ![...state.networks.keys()].some((vni) => bridgeOf(vni) === config.nic.bridge))
    throw lacks(`bridge ${config.nic.bridge}`);
}
