import type { ObserveRecovery } from '../../../contracts/host-migration.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { domainName } from '../vm/domain-names.ts';

/** A VM that is not as busy as before by then may have something else to do. */
const recoveryDeadlineMs = 60_000;
const sampleMs = 1_000;
/** How far from the load before the migration still counts as recovered: this share of it, or what an idle guest uses now and then. */
const tolerance = { share: 0.2, minCpus: 0.05 } as const;

/**
 * Waits until a migrated VM keeps its processors as busy as before. Until then it does more, because it catches up and an
 * emulator translates its code anew, or less, because its caches are cold. false: not within a minute.
 */
export async function observeRecovery(
  { migrator, clock }: HostPorts,
  request: ObserveRecovery,
  signal: AbortSignal,
): Promise<boolean> {
  const name = domainName(request.vmId);
  const allowed = Math.max(tolerance.minCpus, tolerance.share * request.busyCpus);
  const sample = async () => ({ seconds: await migrator.readCpuSeconds(name), atMs: clock.nowMs() });
  let last = await sample();
  for (const untilMs = last.atMs + recoveryDeadlineMs; clock.nowMs() < untilMs; ) {
    await clock.sleep(sampleMs, signal);
    const now = await sample();
    if (last.seconds === null || now.seconds === null) return false;
    const busyCpus = ((now.seconds - last.seconds) * 1000) / (now.atMs - last.atMs);
    if (Math.abs(busyCpus - request.busyCpus) <= allowed) return true;
    last = now;
  }
  return false;
}
