import type { DomainStatus } from '../../../contracts/domain.ts';
import type { MigrateOut, MigrateOutResult } from '../../../contracts/host-migration.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { Migrator, PeerHypervisor, ProcessHandle } from '../../../drivers/ports/migrator.ts';
import { BerthError } from '../../../model/errors.ts';
import { decideConvergence } from '../../../model/migration.ts';
import { nullIfUnavailable } from '../unavailable.ts';
import { domainName } from '../vm/domain-names.ts';
import { type AbortedMigrations, requireSourceRecord } from './migration-source.ts';

const watchPollMs = 20;
const sampleEveryMs = 250;
/** Between two polls of a target that isn't complete yet: every millisecond is the guest's downtime. */
const switchPollMs = 2;
/** How long this host tries to resume the target after the source's process has ended; then the saga does it. */
const handoverDeadlineMs = 4000;

/**
 * Migrates the memory, hands over and resumes the target. Rejoins a migration that an earlier attempt began. Where
 * `observed` is null, the caller has to observe both hosts to learn where the VM is.
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
    const pinged = request.paused === true ? { agentAnswered: false } : pingInBackground(ports, name);
    const client = await startOrRejoin(migrator, name, request, aborted);
    const outcome = await watchMigration(ports, request, process, client, signal);
    const handOver = request.paused === true ? awaitAtTarget : resumeAtTarget;
    const { resumedMs, targetStatus } = process.hasEnded() ? await handOver(ports, peer, name) : notResumed;
    const hasArrived = resumedMs !== null || (request.paused === true && targetStatus !== null);
    if (client.refusal !== null && !hasArrived) throw client.refusal;
    const downtimeMs = resumedMs === null || outcome.pausedMs === null ? null : Math.round(resumedMs - outcome.pausedMs);
    return {
      downtimeMs,
      bytes: outcome.bytes,
      observed: targetStatus === null ? null : { from: null, to: targetStatus },
      ...pinged,
    };
  } finally {
    peer.close();
  }
}

/** Pings the agent without waiting: what has come back by the end of the migration counts. */
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

interface MigrateClient {
  ended: boolean;
  refusal: unknown;
}

/** Starts the hypervisor's client, unless an earlier attempt's job is active: a migration survives its client. */
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
  // No await between this check and the start: an aborted attempt must not begin after its abort has returned.
  if ((aborted.get(request.vmId) ?? -1) >= request.targetGeneration)
    throw new BerthError(
      'stale-generation',
      `migrating ${name} with generation ${request.targetGeneration}: that migration was aborted`,
    );
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

/** Watches until the source's process has ended, or no job is active any more. */
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
  // In parallel: libvirt delays its answers while it ends the source's process, and the guest's downtime lasts until this
  // host has seen that end.
  const watches = [process.waitForEnd(anySignal), steerPreCopy(ports, request, client, outcome, anySignal)];
  try {
    await Promise.race(watches);
  } finally {
    stop.abort();
    // The other watch is aborted; its error says nothing about the migration.
    void Promise.allSettled(watches);
  }
  return outcome;
}

/** Steers the pre-copy, and aborts it where it doesn't converge. Returns when no job is active any more. */
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
      throw new BerthError('not-converging', `migrating ${name}: ${step.reason}`);
    }
    // The job may have ended since the poll: then libvirt refuses, and the limit is no longer needed.
    if (step.downtimeMs > maxDowntimeMs) await nullIfUnavailable(() => migrator.setMaxDowntime(name, step.downtimeMs));
    maxDowntimeMs = step.downtimeMs;
  }
}

/** When this host resumed the target, and the status that the target's hypervisor reported afterwards. */
interface TargetResume {
  resumedMs: number | null;
  targetStatus: DomainStatus | null;
}

const notResumed: TargetResume = { resumedMs: null, targetStatus: null };

/**
 * Resumes the domain at the target: the source's process has ended, so it is the only one. It is complete once its
 * hypervisor reports it as paused by the user, as the migration requested. Where that hypervisor doesn't answer or
 * refuses, the saga resumes the domain.
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

/** The same for a guest that is left paused: waits until its domain at the target is complete. */
async function awaitAtTarget({ clock }: HostPorts, peer: PeerHypervisor, name: string): Promise<TargetResume> {
  for (const untilMs = clock.nowMs() + handoverDeadlineMs; clock.nowMs() < untilMs; await clock.sleep(switchPollMs)) {
    const found = await nullIfUnavailable(() => peer.status(name));
    if (found === null) break;
    if (found.state === 'running' || (found.state === 'paused' && found.reason === 'user'))
      return { resumedMs: null, targetStatus: found };
  }
  return notResumed;
}
