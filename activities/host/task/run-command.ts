import type { DomainState } from '../../../contracts/domain.ts';
import type { RunCommand, RunResult } from '../../../contracts/host.ts';
import type { JobResult } from '../../../drivers/ports/guest.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { Hypervisor } from '../../../drivers/ports/hypervisor.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { domainName } from '../vm/domain-names.ts';
import { vmSuspendedError } from '../vm/suspend.ts';
import { endingSignal } from './ending-signal.ts';
import { boundJobResult } from './job-claims.ts';
import { createLogUploader } from './log-upload.ts';

/**
 * Polls start at a short interval, so that a short command's end is seen at once, and get rarer, so that a long command
 * isn't slowed down: a poll costs an emulated guest 25 ms of a processor.
 */
const minPollMs = 10;
const maxPollMs = 1000;
/** The end of a command is seen late by at most this share of its duration. */
const pollShare = 0.05;
/** How often the log is uploaded while the command runs. */
const logEveryMs = 500;
/** The guest ends the command itself at `timeoutS`; this much later the host no longer waits for it. */
const timeoutGraceMs = 30_000;
/** An agent may leave polls unanswered for this long (its guest is busy, libvirtd restarts) while the domain is alive. */
const unresponsiveDeadlineMs = 120_000;
const retryMs = 250;

/** Starts the command unless this guest has started it, follows it to its end and uploads its log to the repository. */
export async function runCommand(
  ports: HostPorts,
  request: RunCommand,
  record: VmRecord,
  signal: AbortSignal,
): Promise<RunResult> {
  const { guest, store, clock, hypervisor } = ports;
  const name = domainName(request.vm.id);
  if (record.suspended !== null) throw vmSuspendedError(request.vm.id);
  if ((await observeDomainState(hypervisor, name)) === 'gone') throw await domainGoneError(ports, request.vm.id);
  const startedMs = record.jobStartedMs ?? clock.nowMs();
  // Before the start: an attempt after a kill has to know that a command may have begun.
  if (record.jobStartedMs === null)
    await store.writeNonDurable({ ...record, jobStartedMs: startedMs, keepsOutputs: request.keepOutputs === true });
  const job = { argv: request.command, env: request.env, timeoutS: request.timeoutS, logLimitBytes: request.log.limitBytes };
  await retryWhileBusy(ports, request.vm.id, signal, async () => {
    // hasJob reads a file; startJob starts a program even where the job exists, which is slow in a guest just after a migration.
    if (record.jobStartedMs === null || !(await guest.hasJob(name))) await guest.startJob(name, job);
  });
  const ask = <T>(call: () => Promise<T>) => retryWhileBusy(ports, request.vm.id, signal, call);
  const log = createLogUploader(ports, request, ask, signal);
  const claimed = await awaitCommandEnd(ports, request, startedMs, signal, log.upload);
  const stoodStillMs = await idleMs(ports, request.vm.id);
  const passedMs = clock.nowMs() - startedMs - stoodStillMs;
  if (claimed.kind === 'notStarted') {
    await log.uploadRest({ logBytes: null, tail: null });
    throw new BerthError('command-not-started', `running ${JSON.stringify(request.command[0])}: ${claimed.why}`);
  }
  const end = boundJobResult(claimed, { passedMs, logLimitBytes: request.log.limitBytes });
  await log.uploadRest(end);
  return {
    exitCode: end.timedOut ? null : end.exitCode,
    ...endingSignal(end),
    timedOut: end.timedOut,
    startedAt: new Date(startedMs).toISOString(),
    endedAt: new Date(startedMs + stoodStillMs + Math.round(end.seconds * 1000)).toISOString(),
    logBytes: log.bytes(),
  };
}

/** For a domain that is gone from this host: suspended, migrated or lost. The record was written before it could leave. */
async function domainGoneError({ store }: HostPorts, vmId: VmId): Promise<BerthError> {
  const record = await store.read(vmId);
  if (record !== null && record.suspended !== null) return vmSuspendedError(vmId);
  const departing = record?.departureGeneration ?? null;
  if (departing === null)
    return new BerthError('vm-lost', `following the command in ${vmId}: its domain is gone; submit the task again`);
  return new BerthError('vm-moved', `following the command in ${vmId}: it left with generation ${departing}; ask the ledger`);
}

/** How long the guest has stood still since its command began: suspended or paused. */
async function idleMs({ store, clock }: HostPorts, vmId: VmId): Promise<number> {
  const record = await store.read(vmId);
  if (record === null) return 0;
  return record.idleMs + (record.pausedSinceMs === null ? 0 : Math.max(0, clock.nowMs() - record.pausedSinceMs));
}

/** Waits for the end; a guest that doesn't end its command in time is stopped from here. */
async function awaitCommandEnd(
  ports: HostPorts,
  request: RunCommand,
  startedMs: number,
  signal: AbortSignal,
  uploadLog: () => Promise<void>,
): Promise<JobResult> {
  const { guest, clock } = ports;
  const name = domainName(request.vm.id);
  const deadlineMs = startedMs + request.timeoutS * 1000 + timeoutGraceMs;
  let nextLogMs = clock.nowMs() + logEveryMs;
  for (;;) {
    const end = await retryWhileBusy(ports, request.vm.id, signal, () => guest.observeJob(name));
    if (end !== null) return end;
    // While the guest is paused its clock stands still; the host's runs on.
    if (clock.nowMs() >= deadlineMs && clock.nowMs() >= deadlineMs + (await idleMs(ports, request.vm.id))) {
      await retryWhileBusy(ports, request.vm.id, signal, () => guest.stopJob(name));
      return {
        kind: 'exited',
        exitCode: 137,
        timedOut: true,
        stopped: true,
        seconds: (clock.nowMs() - startedMs) / 1000,
        signal: 'unknown',
        logBytes: null,
        tail: null,
      };
    }
    if (clock.nowMs() >= nextLogMs) {
      await uploadLog();
      nextLogMs = clock.nowMs() + logEveryMs;
    }
    const share = Math.ceil((clock.nowMs() - startedMs) * pollShare);
    await clock.sleep(Math.min(maxPollMs, Math.max(minPollMs, share)), signal);
  }
}

/** Retries a call to the guest's agent while it is busy; a domain that is gone, or doesn't answer for too long, is lost. */
async function retryWhileBusy<T>(ports: HostPorts, vmId: VmId, signal: AbortSignal, ask: () => Promise<T>): Promise<T> {
  const { clock, hypervisor } = ports;
  const name = domainName(vmId);
  let deadlineMs = clock.nowMs() + unresponsiveDeadlineMs;
  for (;;) {
    signal.throwIfAborted();
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof BerthError)) throw error;
      if (error.code === 'vm-lost') throw await domainGoneError(ports, vmId);
      if (error.code !== 'host-busy') throw error;
      const state = await observeDomainState(hypervisor, name);
      if (state === 'gone') throw await domainGoneError(ports, vmId);
      // A guest whose processors are stopped can't answer.
      if (state === 'paused') deadlineMs = clock.nowMs() + unresponsiveDeadlineMs;
      if (clock.nowMs() >= deadlineMs)
        throw new BerthError(
          'vm-lost',
          `following the command in ${name}: its agent has not answered for ${unresponsiveDeadlineMs / 1000} s`,
          {
            cause: error,
          },
        );
      await clock.sleep(retryMs, signal);
    }
  }
}

/** `gone` where the hypervisor says so; `unknown` where it doesn't answer, for example because libvirtd restarts. */
async function observeDomainState(hypervisor: Hypervisor, name: string): Promise<DomainState | 'gone' | 'unknown'> {
  try {
    return (await hypervisor.status(name))?.state ?? 'gone';
  } catch (error) {
    if (error instanceof BerthError && error.code === 'host-busy') return 'unknown';
    throw error;
  }
}
