import type { DomainState, HostPorts, Hypervisor, JobEnd, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { RunCommand, RunResult } from './contract.ts';
import { domainName } from './names.ts';
import { suspended } from './suspend.ts';

/**
 * Polls start close together, so that a short command isn't waited for, and thin out, so that a long one isn't disturbed:
 * a question to an emulated guest costs it 25 ms of a processor.
 */
const firstPollMs = 10;
const lastPollMs = 1000;
/** A command's end is known later by this share of what it took, at most. */
const pollShare = 0.05;
/** How often the log is carried over while the command runs. */
const logEveryMs = 500;
const logChunkBytes = 256 * 1024;
/** The guest ends the command itself at `timeoutS`; this much later the host no longer waits for it. */
const graceMs = 30_000;
/** An agent may be silent for this long (its guest is busy, libvirtd restarts) while the domain lives. */
const silenceMs = 120_000;
const againMs = 250;

/** Starts the command unless this guest has started it, follows it to its end and carries its log to the repository. */
export async function runCommand(ports: HostPorts, order: RunCommand, record: VmRecord, signal: AbortSignal): Promise<RunResult> {
  const { guest, store, clock, hypervisor } = ports;
  const name = domainName(order.vm.id);
  if (record.suspended !== null) throw suspended(order.vm.id);
  if ((await seenBy(hypervisor, name)) === 'gone') throw await lost(ports, order.vm.id);
  const startedMs = record.jobStartedMs ?? clock.nowMs();
  // Before the start: an attempt after a kill has to know that a command may have begun.
  if (record.jobStartedMs === null) await store.note({ ...record, jobStartedMs: startedMs });
  const job = { argv: order.command, env: order.env, timeoutS: order.timeoutS, logLimitBytes: order.log.limitBytes };
  await patiently(ports, order.vm.id, signal, async () => {
    // To start a program, if only to learn that there is nothing to start, is much for a guest that has just moved.
    if (record.jobStartedMs === null || !(await guest.hasJob(name))) await guest.startJob(name, job);
  });
  const log = createLogCarrier(ports, order, signal);
  const end = await follow(ports, order, startedMs, signal, log.carry);
  await log.finish(end.kind === 'exited' ? end.logBytes : null);
  if (end.kind === 'notStarted')
    throw new BerthError('command-not-started', `running ${JSON.stringify(order.command[0])}: ${end.why}`);
  return {
    exitCode: end.timedOut ? null : end.exitCode,
    // A shell's convention: 128 and the number of the signal that ended it.
    signal: end.exitCode > 128 && end.exitCode <= 128 + 64 ? end.exitCode - 128 : null,
    timedOut: end.timedOut,
    startedAt: new Date(startedMs).toISOString(),
    endedAt: new Date(startedMs + (await idleMs(ports, order.vm.id)) + Math.round(end.seconds * 1000)).toISOString(),
    logBytes: log.bytes(),
  };
}

/** A domain that is gone from here: it moved, or it is lost. The record was written before it could leave. */
async function lost({ store }: HostPorts, vmId: VmId): Promise<BerthError> {
  const record = await store.read(vmId);
  if (record !== null && record.suspended !== null) return suspended(vmId);
  const departing = record?.departing ?? null;
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
async function follow(
  ports: HostPorts,
  order: RunCommand,
  startedMs: number,
  signal: AbortSignal,
  carryLog: () => Promise<void>,
): Promise<JobEnd> {
  const { guest, clock } = ports;
  const name = domainName(order.vm.id);
  const deadlineMs = startedMs + order.timeoutS * 1000 + graceMs;
  let nextLogMs = clock.nowMs() + logEveryMs;
  for (;;) {
    const end = await patiently(ports, order.vm.id, signal, () => guest.jobEnd(name));
    if (end !== null) return end;
    // The guest's own clock stands still with it; the host's doesn't.
    if (clock.nowMs() >= deadlineMs && clock.nowMs() >= deadlineMs + (await idleMs(ports, order.vm.id))) {
      await patiently(ports, order.vm.id, signal, () => guest.stopJob(name));
      return {
        kind: 'exited',
        exitCode: 137,
        timedOut: true,
        stopped: true,
        seconds: (clock.nowMs() - startedMs) / 1000,
        logBytes: null,
      };
    }
    if (clock.nowMs() >= nextLogMs) {
      await carryLog();
      nextLogMs = clock.nowMs() + logEveryMs;
    }
    const share = Math.ceil((clock.nowMs() - startedMs) * pollShare);
    await clock.sleep(Math.min(lastPollMs, Math.max(firstPollMs, share)), signal);
  }
}

/** Repeats a question to the guest while it is merely slow; a domain that is gone, or silent for too long, is lost. */
async function patiently<T>(ports: HostPorts, vmId: VmId, signal: AbortSignal, ask: () => Promise<T>): Promise<T> {
  const { clock, hypervisor } = ports;
  const name = domainName(vmId);
  let deadlineMs = clock.nowMs() + silenceMs;
  for (;;) {
    signal.throwIfAborted();
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof BerthError)) throw error;
      if (error.code === 'vm-lost') throw await lost(ports, vmId);
      if (error.code !== 'host-busy') throw error;
      const seen = await seenBy(hypervisor, name);
      if (seen === 'gone') throw await lost(ports, vmId);
      // Whoever stopped its processors can't expect an answer.
      if (seen === 'paused') deadlineMs = clock.nowMs() + silenceMs;
      if (clock.nowMs() >= deadlineMs)
        throw new BerthError('vm-lost', `following the command in ${name}: its agent was silent for ${silenceMs / 1000} s`, {
          cause: error,
        });
      await clock.sleep(againMs, signal);
    }
  }
}

/** Gone is what the hypervisor says is gone; one that doesn't answer, because it restarts for example, says nothing. */
async function seenBy(hypervisor: Hypervisor, name: string): Promise<DomainState | 'gone' | 'unknown'> {
  try {
    return (await hypervisor.status(name))?.state ?? 'gone';
  } catch (error) {
    if (error instanceof BerthError && error.code === 'host-busy') return 'unknown';
    throw error;
  }
}

interface LogCarrier {
  /** Carries over what there is; a repository that doesn't answer is tried again the next time. */
  carry(): Promise<void>;
  /** Carries over the rest, to the log's length where it is known; here the repository has to answer. */
  finish(logBytes: number | null): Promise<void>;
  bytes(): number;
}

function createLogCarrier(ports: HostPorts, order: RunCommand, signal: AbortSignal): LogCarrier {
  const { guest, repository } = ports;
  const name = domainName(order.vm.id);
  // A later attempt begins at the front again: the repository ignores what it has.
  let carried = 0;
  const rest = async (untilBytes: number): Promise<void> => {
    while (carried < untilBytes) {
      const chunk = await patiently(ports, order.vm.id, signal, () =>
        guest.readLog(name, carried, Math.min(logChunkBytes, untilBytes - carried)),
      );
      if (chunk.length === 0) return;
      const has = await repository.appendLog(order.log.url, carried, chunk, signal);
      if (has === carried) throw new BerthError('repository-unavailable', `carrying the log of ${name}: nothing was taken`);
      // Fewer than we thought, should the repository have lost some: all of it is still in the guest.
      carried = Math.min(has, carried + chunk.length);
    }
  };
  return {
    async carry() {
      try {
        await rest(order.log.limitBytes);
      } catch (error) {
        if (!(error instanceof BerthError) || error.code !== 'repository-unavailable') throw error;
      }
    },
    finish: (logBytes) => rest(Math.min(logBytes ?? order.log.limitBytes, order.log.limitBytes)),
    bytes: () => carried,
  };
}
