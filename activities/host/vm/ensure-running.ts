import type { DomainStatus } from '../../../contracts/domain.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { Template } from '../../../drivers/ports/templates.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import { uuidOf } from '../../../model/ids.ts';
import type { Boot, VmSpec } from '../../../model/vm.ts';
import { attachSeed, detachSeed } from './cloud-init-seed.ts';
import { domainConfig } from './domain-config.ts';
import { domainName } from './domain-names.ts';
import { ensureDisks } from './ensure-disks.ts';
import { applyIdentity, awaitAgent, bootDeadlineMs } from './guest-identity.ts';

export interface StartResult {
  createMs: number;
  bootMs: number;
  /** How the guest that runs came to life. */
  boot: Boot;
}

/**
 * Starts the domain unless it runs, from a template where there is one, and gives the guest its identity. Every part can
 * be repeated after a kill at any line: the record's `ready` is written last, and cleared before a domain is made.
 */
export async function ensureRunning(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<StartResult> {
  const { store, clock } = ports;
  const name = domainName(vm.id);
  const startedMs = clock.nowMs();
  let current = record;
  const found = await observeStart(ports, name, record, signal);
  if (found === null) {
    if (record.jobStartedMs !== null)
      throw new BerthError('vm-lost', `starting ${name} again: its command had begun in a domain that is gone`);
    const templateStart = await startFromTemplate(ports, vm, { ...record, ready: null }, signal);
    if (templateStart.kind === 'warm') return templateStart.result;
    current = { ...record, ready: null, boot: { kind: 'cold', why: templateStart.why } };
    await store.writeDurably(current);
    await createDomain(ports, vm, current);
  } else if (found.state !== 'running') {
    throwUnexpectedState(name, found);
  } else if (record.ready !== null) return startResult(record, record.ready);

  const createdMs = clock.nowMs();
  if (vm.image.cloudInit && !record.identityApplied) {
    // Before it is adopted: what cloud-init sets once isn't set over what we gave the guest.
    await awaitAgent(ports, name, bootDeadlineMs, signal);
    await detachSeed(ports, vm);
  }
  await applyIdentity(ports, vm, signal, record.identityApplied ? null : 'cold');
  return markReady(ports, current, startedMs, createdMs);
}

const startResult = ({ boot }: VmRecord, { createMs, bootMs }: { createMs: number; bootMs: number }): StartResult => ({
  createMs,
  bootMs,
  boot: boot ?? { kind: 'cold', why: 'no-template' },
});

async function markReady(
  { store, clock }: HostPorts,
  record: VmRecord,
  startedMs: number,
  createdMs: number,
): Promise<StartResult> {
  const times = { createMs: createdMs - startedMs, bootMs: clock.nowMs() - createdMs, sinceMs: createdMs };
  await store.writeDurably({ ...record, ready: times, identityApplied: true });
  return startResult(record, times);
}

type TemplateStart = { kind: 'warm'; result: StartResult } | { kind: 'cold'; why: Exclude<Boot, { kind: 'warm' }>['why'] };

/**
 * From a template's memory, where there is one that fits. What doesn't come up is ended, and leaves a fresh overlay for a
 * boot: no attempt of this kind fails the VM.
 */
async function startFromTemplate(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<TemplateStart> {
  const { diskTool: disks, store, templates, clock, hypervisor } = ports;
  if (record.identityApplied) return { kind: 'cold', why: 'used-disk' };
  if (vm.image.cloudInit) return { kind: 'cold', why: 'cloud-init' };
  if (vm.extraDisksMiB.length > 0) return { kind: 'cold', why: 'extra-disks' };
  const config = await domainConfig(ports, vm, null);
  const template = await templates.find(vm.image.id, await templates.computeKey(config));
  if (template === 'none') return { kind: 'cold', why: 'no-template' };
  if (template === 'retired') return { kind: 'cold', why: 'template-retired' };
  const current: VmRecord = { ...record, boot: { kind: 'warm' } };
  await store.writeDurably(current);
  const startedMs = clock.nowMs();
  try {
    await disks.copyOverlay(store.paths(vm.id).overlay, template.disk, vm.rootMiB);
    await templates.startDomain(config, template);
    const createdMs = clock.nowMs();
    await applyIdentity(ports, vm, signal, 'warm');
    const running = await markReady(ports, current, startedMs, createdMs);
    await templates.recordOutcome(template, 'started');
    return { kind: 'warm', result: running };
  } catch (error) {
    signal.throwIfAborted();
    await recordTemplateFailure(ports, template, error);
    await hypervisor.destroy(config.name);
    await disks.remove(store.paths(vm.id).overlay);
    await ensureDisks(ports, vm, signal);
    return { kind: 'cold', why: 'template-failed' };
  }
}

/** A host that is too slow or full would have failed with any template. Mistakes of ours are not to be hidden by a boot. */
async function recordTemplateFailure({ templates }: HostPorts, template: Template, error: unknown): Promise<void> {
  if (!(error instanceof BerthError)) throw error;
  if (error.code === 'hypervisor' || error.code === 'boot-failed' || error.code === 'vm-lost')
    await templates.recordOutcome(template, { failed: error.message });
  else if (error.code !== 'host-busy') throw error;
}

const startingUpDeadlineMs = 5000;
const startingUpPollMs = 250;

/**
 * The domain's state, once its start is over. A libvirtd that was killed between making QEMU and letting it run leaves it
 * paused (starting up) for ever; an attempt of ours that was killed leaves a guest with its template's identity. Not one
 * instruction of a guest without identity and command was anybody's, so such a domain is ended, to be made anew.
 */
async function observeStart(ports: HostPorts, name: string, record: VmRecord, signal: AbortSignal): Promise<DomainStatus | null> {
  const { hypervisor, clock } = ports;
  const isStartingUp = (status: DomainStatus | null) => status?.state === 'paused' && status.reason === 'starting up';
  let found = await hypervisor.status(name);
  const unused = record.ready === null && record.jobStartedMs === null;
  if (found !== null && unused && !record.identityApplied && record.boot?.kind === 'warm') {
    await hypervisor.destroy(name);
    return null;
  }
  for (const endMs = clock.nowMs() + startingUpDeadlineMs; isStartingUp(found) && clock.nowMs() < endMs; ) {
    await clock.sleep(startingUpPollMs, signal);
    found = await hypervisor.status(name);
  }
  if (!isStartingUp(found) || !unused) return found;
  await hypervisor.destroy(name);
  return null;
}

/** "In use" may be said of ourselves: an attempt that was killed in the middle of this may have got its domain after all. */
async function createDomain(ports: HostPorts, vm: VmSpec, record: VmRecord): Promise<void> {
  try {
    await ports.hypervisor.create(await attachSeed(ports, vm, record, await domainConfig(ports, vm, null)));
  } catch (error) {
    if (!(error instanceof BerthError) || error.code !== 'not-ours') throw error;
    const ours = (await ports.hypervisor.list()).some(({ name, uuid }) => name === domainName(vm.id) && uuid === uuidOf(vm.id));
    if (!ours) throw error;
  }
}

/** A domain that is being made or is on its way out will be something else in a moment; one that somebody paused won't. */
function throwUnexpectedState(name: string, { state, reason }: DomainStatus): never {
  const permanent = state === 'paused' && reason !== 'starting up';
  throw new BerthError(permanent ? 'conflict' : 'host-busy', `starting ${name}: its domain is ${state} (${reason})`);
}
