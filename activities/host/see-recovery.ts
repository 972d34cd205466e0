import type { HostPorts } from '../../drivers/ports.ts';
import type { VmId } from '../../model/ids.ts';
import { domainName } from './names.ts';

export interface SeeRecovery {
  vmId: VmId;
  generation: number;
  /** Before it moved. */
  busyCpus: number;
}

/** For so long it is looked at; what has not come back by then may have something else to do. */
const patienceMs = 60_000;
const lookEveryMs = 1_000;
/** As before: so much of it more or less, and what any guest does now and then. */
const band = { part: 0.2, least: 0.05 } as const;

/**
 * Waits until a VM that has moved here keeps its processors as busy as before: until then it does more, catching up and
 * being translated anew, or less, waiting for what it had in its caches. false: it was not seen to within a minute.
 */
export async function seeRecovery({ migrator, clock }: HostPorts, order: SeeRecovery, signal: AbortSignal): Promise<boolean> {
  const name = domainName(order.vmId);
  const allowed = Math.max(band.least, band.part * order.busyCpus);
  const look = async () => ({ seconds: await migrator.cpuSeconds(name), atMs: clock.nowMs() });
  let last = await look();
  for (const untilMs = last.atMs + patienceMs; clock.nowMs() < untilMs; ) {
    await clock.sleep(lookEveryMs, signal);
    const now = await look();
    if (last.seconds === null || now.seconds === null) return false;
    const busyCpus = ((now.seconds - last.seconds) * 1000) / (now.atMs - last.atMs);
    if (Math.abs(busyCpus - order.busyCpus) <= allowed) return true;
    last = now;
  }
  return false;
}
