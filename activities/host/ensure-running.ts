import type { DomainStatus, HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import { uuidOf } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { adopt } from './adopt.ts';
import { domainConfig } from './domain-config.ts';
import { domainName } from './names.ts';

export interface Running {
  createMs: number;
  bootMs: number;
}

/**
 * Starts the domain unless it runs, waits for its agent and gives the guest its identity. Every part can be repeated
 * after a kill at any line: the record's `ready` is written last, and cleared before a domain is made.
 */
export async function ensureRunning(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<Running> {
  const { store, clock } = ports;
  const name = domainName(vm.id);
  const startedMs = clock.nowMs();
  let current = record;
  const found = await begun(ports, name, record, signal);
  if (found === null) {
    if (record.jobStartedMs !== null)
      throw new BerthError('vm-lost', `starting ${name} again: its command had begun in a domain that is gone`);
    current = { ...record, ready: null };
    if (record.ready !== null) await store.write(current);
    await create(ports, vm);
  } else if (found.state !== 'running') {
    refuseState(name, found);
  } else if (record.ready !== null) return { createMs: record.ready.createMs, bootMs: record.ready.bootMs };

  const createdMs = clock.nowMs();
  await adopt(ports, vm, signal);
  const ready = { createMs: createdMs - startedMs, bootMs: clock.nowMs() - createdMs, sinceMs: createdMs };
  await store.write({ ...current, ready });
  return { createMs: ready.createMs, bootMs: ready.bootMs };
}

const startingUpMs = 5000;
const startingUpPollMs = 250;

/**
 * The domain's state, once its start is over. A libvirtd that was killed between making QEMU and letting it run leaves it
 * paused (starting up) for ever. Not one instruction of a guest without identity and command was anybody's, so such a
 * domain is ended, to be made anew.
 */
async function begun(ports: HostPorts, name: string, record: VmRecord, signal: AbortSignal): Promise<DomainStatus | null> {
  const { hypervisor, clock } = ports;
  const isStartingUp = (status: DomainStatus | null) => status?.state === 'paused' && status.reason === 'starting up';
  let found = await hypervisor.status(name);
  for (const endMs = clock.nowMs() + startingUpMs; isStartingUp(found) && clock.nowMs() < endMs; ) {
    await clock.sleep(startingUpPollMs, signal);
    found = await hypervisor.status(name);
  }
  if (!isStartingUp(found) || record.ready !== null || record.jobStartedMs !== null) return found;
  await hypervisor.destroy(name);
  return null;
}

/** "In use" may be said of ourselves: an attempt that was killed in the middle of this may have got its domain after all. */
async function create(ports: HostPorts, vm: VmSpec): Promise<void> {
  try {
    await ports.hypervisor.create(await domainConfig(ports, vm, null));
  } catch (error) {
    if (!(error instanceof BerthError) || error.code !== 'not-ours') throw error;
    const ours = (await ports.hypervisor.list()).some(({ name, uuid }) => name === domainName(vm.id) && uuid === uuidOf(vm.id));
    if (!ours) throw error;
  }
}

/** A domain that is being made or is on its way out will be something else in a moment; one that somebody paused won't. */
function refuseState(name: string, { state, reason }: DomainStatus): never {
  const lasting = state === 'paused' && reason !== 'starting up';
  throw new BerthError(lasting ? 'conflict' : 'host-busy', `starting ${name}: its domain is ${state} (${reason})`);
}
