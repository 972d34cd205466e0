import type { DomainStatus } from '../../../contracts/domain.ts';
import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { Template } from '../../../drivers/ports/templates.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import { uuidOf } from '../../../model/ids.ts';
import type { Boot, VmSpec } from '../../../model/vm.ts';
import { attachSeed, detachSeed } from './cloud-init-seed.ts';
import { domainConfig } from './domain-config.ts';
import { domainName } from './domain-names.ts';
import { describeDomain } from './domain-state.ts';
import { ensureDisks } from './ensure-disks.ts';
import { applyIdentity, awaitAgent, bootDeadlineMs } from './guest-identity.ts';

interface StartRequest {
  vm: VmSpec;
  /** Address of the host that has its disks; null: this one. */
  diskHostAddress: string | null;
}

interface StartResult {
  createMs: number;
  bootMs: number;
  /** How the running guest was started. */
  boot: Boot;
}

/**
 * Starts the domain unless it runs, from a template where there is one, and gives the guest its identity. Every part can
 * be repeated after a kill at any line: the record's `ready` is written last, and cleared before a domain is created.
 */
export async function ensureRunning(
  ports: HostPorts,
  { vm, diskHostAddress }: StartRequest,
  record: VmRecord,
  signal: AbortSignal,
): Promise<StartResult> {
  const { store, clock } = ports;
  const name = domainName(vm.id);
  const startedMs = clock.nowMs();
  let current = record;
  const found = await observeStart(ports, name, record, signal);
  if (found === null) {
    if (record.jobStartedMs !== null)
      throw new BerthError('vm-lost', `starting ${name} again: its command had started in a domain that is gone`);
    const fresh = await forgetLastDomain(ports, record);
    const templateStart = await startFromTemplate(ports, vm, fresh, signal);
    if (templateStart.kind === 'warm') return templateStart.result;
    current = { ...fresh, boot: { kind: 'cold', why: templateStart.why } };
    await store.writeDurably(current);
    await createDomain(ports, { vm, diskHostAddress }, current);
  } else if (found.state !== 'running') {
    throwUnexpectedState(name, found);
  } else if (record.ready !== null) return startResult(record, record.ready);

  const createdMs = clock.nowMs();
  if (vm.image.cloudInit && !record.identityApplied) {
    // Before the identity is applied: cloud-init would overwrite it.
    await awaitAgent(ports, name, bootDeadlineMs, signal);
    await detachSeed(ports, vm);
  }
  await applyIdentity(ports, vm, signal, record.identityApplied ? null : 'cold');
  return markReady(ports, current, startedMs, createdMs);
}

/** What is recorded of a domain that has ended, saved memory included, must not be taken for the next one's. */
async function forgetLastDomain({ store }: HostPorts, record: VmRecord): Promise<VmRecord> {
  if (record.suspended !== null) await store.removeMemory(record.vmId);
  return { ...record, ready: null, suspended: null, pausedSinceMs: null, arrivedPaused: false, flushed: false };
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
  const times = { createMs: createdMs - startedMs, bootMs: clock.nowMs() - createdMs };
  await store.writeDurably({ ...record, ready: times, identityApplied: true });
  return startResult(record, times);
}

type TemplateStart = { kind: 'warm'; result: StartResult } | { kind: 'cold'; why: Exclude<Boot, { kind: 'warm' }>['why'] };

/**
 * Starts the domain from a template's memory, where a template fits. A failed start is undone, with a new overlay for the
 * cold boot that follows: it never fails the VM.
 */
async function startFromTemplate(ports: HostPorts, vm: VmSpec, record: VmRecord, signal: AbortSignal): Promise<TemplateStart> {
  const { diskTool, store, templates, clock, hypervisor } = ports;
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
    await diskTool.copyOverlay(store.paths(vm.id).overlay, template.disk, vm.rootMiB);
    await templates.startDomain(config, template);
    const createdMs = clock.nowMs();
    await applyIdentity(ports, vm, signal, 'warm');
    const result = await markReady(ports, current, startedMs, createdMs);
    await templates.recordOutcome(template, 'started');
    return { kind: 'warm', result };
  } catch (error) {
    signal.throwIfAborted();
    await recordTemplateFailure(ports, template, error);
    await hypervisor.destroy(config.name);
    await diskTool.remove(store.paths(vm.id).overlay);
    await ensureDisks(ports, vm, signal);
    return { kind: 'cold', why: 'template-failed' };
  }
}

/** A host that is too slow would fail with any template: not recorded. Rethrows what is not the template's: a cold boot must not hide a bug. */
async function recordTemplateFailure({ templates }: HostPorts, template: Template, error: unknown): Promise<void> {
  if (!(error instanceof BerthError)) throw error;
  if (error.code === 'hypervisor' || error.code === 'boot-failed' || error.code === 'vm-lost')
    await templates.recordOutcome(template, { failed: error.message });
  else if (error.code !== 'host-busy') throw error;
}

const startingUpDeadlineMs = 5000;
const startingUpPollMs = 250;

/**
 * The domain's status, once its start is over. A libvirtd that was killed between starting QEMU and resuming it leaves the
 * domain paused (starting up) for ever; an attempt that was killed leaves a guest with its template's identity. A guest
 * without identity and command has executed nothing of its owner's, so such a domain is destroyed and created anew.
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
  if (isStartingUp(found))
    await pollUntil(clock, { pollMs: startingUpPollMs, deadlineMs: startingUpDeadlineMs, signal }, async () => {
      found = await hypervisor.status(name);
      return isStartingUp(found) ? null : true;
    });
  if (!isStartingUp(found) || !unused) return found;
  await hypervisor.destroy(name);
  return null;
}

/** `not-ours` may refer to our own domain: an attempt that was killed during this call may have created it after all. */
async function createDomain(ports: HostPorts, { vm, diskHostAddress }: StartRequest, record: VmRecord): Promise<void> {
  try {
    await ports.hypervisor.create(await attachSeed(ports, vm, record, await domainConfig(ports, vm, diskHostAddress)));
  } catch (error) {
    if (!(error instanceof BerthError) || error.code !== 'not-ours') throw error;
    const ours = (await ports.hypervisor.list()).some(({ name, uuid }) => name === domainName(vm.id) && uuid === uuidOf(vm.id));
    if (!ours) throw error;
  }
}

/** A domain that is starting up or shutting down changes by itself; one that was paused doesn't. */
function throwUnexpectedState(name: string, found: DomainStatus): never {
  const { state, reason } = found;
  const permanent = state === 'paused' && reason !== 'starting up';
  throw new BerthError(permanent ? 'conflict' : 'host-busy', `starting ${name}: ${describeDomain(found)}`);
}
