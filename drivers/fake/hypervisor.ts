import { BerthError } from '../../model/errors.ts';
import type { DomainConfig, DomainStatus, Hypervisor } from '../ports.ts';
import { bridgeOf, bug, disksAt, type FakeState, peersOf, refuseLive } from './state.ts';

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
      state.domains.set(config.name, {
        config: structuredClone(config),
        status: { state: 'running', reason: 'booted' },
        createdMs: state.clock.nowMs(),
        identity: null,
        settled: false,
        job: 'none',
      });
    },
    async destroy(name) {
      state.domains.delete(name);
    },
    suspendCpus: async (name) => setStatus(name, { state: 'paused', reason: 'user' }),
    async resumeCpus(name) {
      refuseSecond(state, name);
      setStatus(name, { state: 'running', reason: 'unpaused' });
    },
    version: async () => 'fake 1.0',
  };
}

function refuseInUse(state: FakeState, config: DomainConfig): void {
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
function refuseSecond(state: FakeState, name: string): void {
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
  if (config.kernel !== null) {
    const image = /\/images\/([^/]+)\/kernel$/.exec(config.kernel)?.[1];
    if (image === undefined || !state.images.has(image)) throw lacks(`kernel ${config.kernel}`);
  }
  if (![...state.networks.keys()].some((vni) => bridgeOf(vni) === config.nic.bridge)) throw lacks(`bridge ${config.nic.bridge}`);
}
