import type { DomainConfig, DomainStatus } from '../../../contracts/domain.ts';
import type {
  MigrateOut,
  MigrateOutResult,
  MigrationObservation,
  PortableRecord,
  PrepareIncoming,
} from '../../../contracts/host-migration.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { Migrator, PeerHypervisor, ProcessHandle } from '../../../drivers/ports/migrator.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { decideConvergence } from '../../../model/migration.ts';
import { domainConfig } from '../vm/domain-config.ts';
import { domainName } from '../vm/domain-names.ts';
import { removeDisks } from '../vm/remove-disks.ts';

const watchPollMs = 20;
const sampleEveryMs = 250;
/** Between two looks at a target that isn't complete yet: every millisecond is the guest's downtime. */
const switchPollMs = 2;
/** After the end of the source, how long its host may still resume the target; later the saga does it. */
const handoverDeadlineMs = 4000;

export async function observeMigration({ hypervisor, migrator }: HostPorts, vmId: VmId): Promise<MigrationObservation> {
  const name = domainName(vmId);
  // The job first: one that ends between the two questions is then still `active`, and is asked for again.
  const job = await migrator.observeJob(name);
  return { domain: await hypervisor.status(name), job };
}

export async function readPortableRecord(
  { store }: HostPorts,
  vmId: VmId,
  generation: number,
  runsCommand: boolean,
): Promise<PortableRecord> {
  const { staged, ready, jobStartedMs, idleMs, boot, identityApplied } = await requireSourceRecord(store, vmId, generation);
  // Until then runCommand is about to write this record, and would undo what the migration writes there.
  if (runsCommand && jobStartedMs === null)
    throw new BerthError('host-busy', `moving ${vmId}: its command is only being started; in a moment it can move`);
  return { staged, ready, jobStartedMs, idleMs, boot, identityApplied };
}

async function requireSourceRecord(store: HostPorts['store'], vmId: VmId, generation: number): Promise<VmRecord> {
  const record = await store.read(vmId);
  if (record === null) throw new BerthError('vm-lost', `moving ${vmId}: this host has no record of it`);
  if (record.generation > generation)
    throw new BerthError(
      'stale-generation',
      `moving ${vmId} with generation ${generation}: ${record.generation} is recorded; ask the ledger where it is`,
    );
  if (record.removing || record.flushed)
    throw new BerthError('conflict', `moving ${vmId}: its ${record.removing ? 'removal has begun' : 'disk is settled'}`);
  return record;
}

/** The record, the network and the console's folder at the target; returns the domain as it is to be here. */
export async function prepareIncoming(ports: HostPorts, request: PrepareIncoming, record: VmRecord): Promise<DomainConfig> {
  const { hypervisor, store, imageCache: images } = ports;
  const { vm, diskHostAddress: disksAt, portableRecord: carried } = request;
  const found = await hypervisor.status(domainName(vm.id));
  if (found !== null)
    throw new BerthError('conflict', `preparing for ${vm.id}: a domain of this name is ${found.state} (${found.reason}) here`);
  if ((await images.find(vm.image.id)) === null)
    throw new BerthError('migration-refused', `preparing for ${vm.id}: its image ${vm.image.name} left this host's cache`);
  const config = await domainConfig(ports, vm, disksAt);
  await store.writeDurably({ ...record, ...carried, flushed: false });
  return config;
}

/**
 * Moves the memory, hands over and resumes the target. Also takes up a migration that an earlier attempt began. Where it
 * has not seen both ends of the hand-over itself, both hosts have to be asked where the VM is.
 */
export async function migrateOut(
  ports: HostPorts,
  request: MigrateOut,
  aborted: AbortedMigrations,
  signal: AbortSignal,
): Promise<MigrateOutResult> {
  const { store, hypervisor, migrator } = ports;
  const name = domainName(request.vmId);
  const record = await requireSourceRecord(store, request.vmId, request.generation);
  if (record.departureGeneration !== request.targetGeneration)
    await store.writeDurably({ ...record, departureGeneration: request.targetGeneration });
  const process = await migrator.watchProcess(name);
  if (process === null || (await hypervisor.status(name)) === null)
    return { downtimeMs: null, bytes: 0, observed: null, agentAnswered: false };
  const peer = migrator.openPeer(request.targetAddress);
  try {
    peer.connect();
    const answered = pingInBackground(ports, name);
    const client = await startOrRejoin(migrator, name, request, aborted);
    const outcome = await watchMigration(ports, request, process, client, signal);
    const { resumedMs, targetStatus } = process.hasEnded() ? await resumeAtTarget(ports, peer, name) : notResumed;
    if (client.refusal !== null && resumedMs === null) throw client.refusal;
    const downtimeMs = resumedMs === null || outcome.pausedMs === null ? null : Math.round(resumedMs - outcome.pausedMs);
    return {
      downtimeMs,
      bytes: outcome.bytes,
      observed: targetStatus === null ? null : { from: null, to: targetStatus },
      ...answered,
    };
  } finally {
    peer.close();
  }
}

/** Asked on the way, and not waited for: what has been said by the end is what counts. */
function pingInBackground({ guest }: HostPorts, name: string): { agentAnswered: boolean } {
  const pinged = { agentAnswered: false };
  guest.ping(name).then(
    (answers) => {
      pinged.agentAnswered = answers;
    },
    () => undefined,
  );
  return pinged;
}

/** Migrations that were ended from here, by VM the last one's generation: for as long as the process lives, as its attempts do. */
export type AbortedMigrations = Map<VmId, number>;

interface MigrateClient {
  ended: boolean;
  refusal: unknown;
}

/** Starts the hypervisor's client, unless a job of an earlier attempt is at work: a client that died is no migration that died. */
async function startOrRejoin(
  migrator: Migrator,
  name: string,
  request: MigrateOut,
  aborted: AbortedMigrations,
): Promise<MigrateClient> {
  const client: MigrateClient = { ended: false, refusal: null };
  if ((await migrator.observeJob(name))?.active === true) {
    client.ended = true;
    return client;
  }
  await migrator.setMaxDowntime(name, request.policy.initialDowntimeMs);
  const deadlineMs = request.policy.deadlineMs * 2 + 60_000;
  // Nothing may come between this look and the start: an attempt that was given up must not begin when all is over.
  if ((aborted.get(request.vmId) ?? -1) >= request.targetGeneration)
    throw new BerthError('stale-generation', `moving ${name} with generation ${request.targetGeneration}: that was ended`);
  void migrator
    .migrate({ config: request.config, targetAddress: request.targetAddress, deadlineMs })
    .catch((error: unknown) => {
      client.refusal = error;
    })
    .finally(() => {
      client.ended = true;
    });
  return client;
}

interface PreCopyOutcome {
  pausedMs: number | null;
  bytes: number;
}

/** Until the source's process has ended, or no job is at work any more. */
async function watchMigration(
  ports: HostPorts,
  request: MigrateOut,
  process: ProcessHandle,
  client: MigrateClient,
  signal: AbortSignal,
): Promise<PreCopyOutcome> {
  const outcome: PreCopyOutcome = { pausedMs: null, bytes: 0 };
  const stop = new AbortController();
  const anySignal = AbortSignal.any([signal, stop.signal]);
  // Side by side: libvirt holds its answers back while it ends the source's process, and the guest stands still until
  // that end is seen.
  const watches = [process.waitForEnd(anySignal), steerPreCopy(ports, request, client, outcome, anySignal)];
  try {
    await Promise.race(watches);
  } finally {
    stop.abort();
    // What the other one meets on its way out is of no interest any more.
    void Promise.allSettled(watches);
  }
  return outcome;
}

/** Steers the pre-copy, and gives it up in time. Ends when no job is at work any more. */
async function steerPreCopy(
  { hypervisor, migrator, clock }: HostPorts,
  request: MigrateOut,
  client: MigrateClient,
  outcome: PreCopyOutcome,
  signal: AbortSignal,
): Promise<void> {
  const name = domainName(request.vmId);
  const startedMs = clock.nowMs();
  let maxDowntimeMs = request.policy.initialDowntimeMs;
  for (let sampleAtMs = startedMs; ; await clock.sleep(watchPollMs, signal)) {
    if (outcome.pausedMs === null && (await hypervisor.status(name))?.state === 'paused') outcome.pausedMs = clock.nowMs();
    if (clock.nowMs() < sampleAtMs && !client.ended) continue;
    sampleAtMs = clock.nowMs() + sampleEveryMs;
    const job = await migrator.observeJob(name);
    if (job !== null) outcome.bytes = Math.max(outcome.bytes, job.processedBytes);
    if (job?.active !== true && client.ended) return;
    if (job?.active !== true || outcome.pausedMs !== null) continue;
    const step = decideConvergence(request.policy, clock.nowMs() - startedMs, job);
    if (step.kind === 'giveUp') {
      await migrator.abort(name);
      throw new BerthError('not-converging', `moving ${name}: ${step.reason}`);
    }
    // It may have come to its end since the look: then that is refused, and no longer needed.
    if (step.downtimeMs > maxDowntimeMs) await nullIfUnavailable(() => migrator.setMaxDowntime(name, step.downtimeMs));
    maxDowntimeMs = step.downtimeMs;
  }
}

/** When the target was resumed from here, and what its hypervisor said of it afterwards. */
interface TargetResume {
  resumedMs: number | null;
  targetStatus: DomainStatus | null;
}

const notResumed: TargetResume = { resumedMs: null, targetStatus: null };

/**
 * The source's process has ended: the copy at the target is the only one. It is resumed when it is complete, which is
 * when the hypervisor left it paused as it was asked to. Where it is silent, or refuses, the saga sees to it.
 */
async function resumeAtTarget({ clock }: HostPorts, peer: PeerHypervisor, name: string): Promise<TargetResume> {
  let resumedMs: number | null = null;
  for (const untilMs = clock.nowMs() + handoverDeadlineMs; clock.nowMs() < untilMs; ) {
    const found = await nullIfUnavailable(() => peer.status(name));
    if (found === null) break;
    if (found.state === 'running') return { resumedMs, targetStatus: found };
    if (found.state === 'paused' && found.reason === 'user' && resumedMs === null) {
      if ((await nullIfUnavailable(() => peer.resume(name).then(() => true))) === null) break;
      resumedMs = clock.nowMs();
    } else await clock.sleep(switchPollMs);
  }
  return { resumedMs, targetStatus: null };
}

/** null: refused or not answered at the moment, which is looked at again, here or by the other host's own worker. */
async function nullIfUnavailable<T>(ask: () => Promise<T>): Promise<T | null> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof BerthError && (error.code === 'host-busy' || error.code === 'hypervisor')) return null;
    throw error;
  }
}

export async function abortMigration(
  { hypervisor, migrator, store }: HostPorts,
  vmId: VmId,
  generation: number,
  targetGeneration: number,
  aborted: AbortedMigrations,
): Promise<void> {
  aborted.set(vmId, Math.max(targetGeneration, aborted.get(vmId) ?? 0));
  const record = await store.read(vmId);
  if (record === null || record.generation > generation) return;
  const name = domainName(vmId);
  if ((await hypervisor.status(name)) === null) return;
  if ((await migrator.observeJob(name))?.active === true) await migrator.abort(name);
}

/** At either side, after both were asked: this is the only copy, and it is complete. */
export async function resumeDomain({ hypervisor }: HostPorts, vmId: VmId): Promise<void> {
  const name = domainName(vmId);
  const found = await hypervisor.status(name);
  if (found === null) throw new BerthError('vm-lost', `resuming ${name}: there is no such domain`);
  if (found.state === 'paused') await hypervisor.resumeCpus(name);
  else if (found.state !== 'running')
    throw new BerthError('ambiguous', `resuming ${name}: it is ${found.state} (${found.reason})`);
}

/** All that a guest has translated is translated anew where it is emulated, and an overcommitted one is slow at everything. */
const agentDeadlineMs = 60_000;

export async function probeGuest({ guest, clock }: HostPorts, vmId: VmId, signal: AbortSignal): Promise<boolean> {
  for (const untilMs = clock.nowMs() + agentDeadlineMs; !(await guest.ping(domainName(vmId))); await clock.sleep(100, signal))
    if (clock.nowMs() > untilMs) return false;
  return true;
}

/** Ends a copy that doesn't run, after both hosts were asked. One that runs is never ended here. */
export async function removeDomainUnlessRunning({ hypervisor }: HostPorts, vmId: VmId): Promise<void> {
  const name = domainName(vmId);
  const found = await hypervisor.status(name);
  if (found === null) return;
  if (found.state === 'running')
    throw new BerthError('ambiguous', `dropping the copy of ${name}: it runs (${found.reason}), which it was seen not to`);
  await hypervisor.destroy(name);
  const left = await hypervisor.status(name);
  if (left !== null)
    throw new BerthError('host-busy', `dropping the copy of ${name}: the hypervisor still says ${left.state} (${left.reason})`);
}

/** What is left of a VM where it isn't any more, or never came to be. Its disks stay where they are at home. */
export async function removeLeftover(
  ports: HostPorts,
  vmId: VmId,
  generation: number,
  isHome: boolean,
  record: VmRecord | null,
): Promise<void> {
  if (!isHome) return removeDisks(ports, vmId, generation, record);
  if (record !== null && record.generation < generation) await ports.store.writeDurably({ ...record, generation });
}

/** Before its outputs are read elsewhere: the guest's writes are on the disk, and no more can follow. */
export async function flushGuestDisks({ hypervisor, guest, store }: HostPorts, vmId: VmId, record: VmRecord): Promise<void> {
  if (record.flushed) return;
  const name = domainName(vmId);
  if ((await hypervisor.status(name)) === null)
    throw new BerthError('vm-lost', `settling ${name}: its domain ended before its disk was complete`);
  await guest.flushDataDisk(name);
  await store.writeDurably({ ...record, flushed: true });
}
