import type { ObserveRecovery } from '../../../contracts/host-migration.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { domainName } from '../vm/domain-names.ts';

/** For so long it is looked at; what has not come back by then may have something else to do. */
const recoveryDeadlineMs = 60_000;
const sampleMs = 1_000;
/** As before: so much of it more or less, and what any guest does now and then. */
const tolerance = { share: 0.2, minCpus: 0.05 } as const;

/**
 * Waits until a VM that has moved here keeps its processors as busy as before: until then it does more, catching up and
 * being translated anew, or less, waiting for what it had in its caches. false: it was not seen to within a minute.
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
