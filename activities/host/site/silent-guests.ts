import type { Clock } from '../../../drivers/ports/clock.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmId } from '../../../model/ids.ts';
import { nullIfUnavailable } from '../unavailable.ts';
import { domainName } from '../vm/domain-names.ts';

/** Between two questions to each running guest's agent. */
const askMs = 60_000;
/** A guest that is busy may miss a call. */
const askTimes = 3;
const askAgainMs = 1000;

/** Whether a running guest's agent answers, asked a few times. */
export async function isAnswering({ guest, clock }: HostPorts, vmId: VmId): Promise<boolean> {
  for (let count = 0; count < askTimes; count += 1) {
    if (count > 0) await clock.sleep(askAgainMs);
    if (await guest.ping(domainName(vmId))) return true;
  }
  return false;
}

/**
 * The running guests whose agents do not answer. They are asked now and then, one after the other and beside the watch of the
 * domains, which a silent one must not delay.
 */
export class SilentGuests {
  readonly #ports: HostPorts;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #onChange: (id: VmId) => void;
  readonly #silent = new Set<VmId>();
  #running: VmId[] = [];
  #dueMs: number;
  #asking = false;

  constructor(
    ports: HostPorts,
    { clock, signal, onChange }: { clock: Clock; signal: AbortSignal; onChange: (id: VmId) => void },
  ) {
    this.#ports = ports;
    this.#clock = clock;
    this.#signal = signal;
    this.#onChange = onChange;
    this.#dueMs = clock.nowMs() + askMs;
  }

  has(id: VmId): boolean {
    return this.#silent.has(id);
  }

  /** The guests that run now: they are asked where that is due. */
  follow(running: VmId[]): void {
    this.#running = running;
    for (const id of this.#silent) if (!running.includes(id)) this.#silent.delete(id);
    if (this.#asking || this.#clock.nowMs() < this.#dueMs) return;
    this.#asking = true;
    void this.#askAll().finally(() => {
      this.#asking = false;
      this.#dueMs = this.#clock.nowMs() + askMs;
    });
  }

  async #askAll(): Promise<void> {
    for (const id of this.#running) {
      if (this.#signal.aborted) return;
      const answers = await nullIfUnavailable(() => isAnswering(this.#ports, id));
      if (answers === null || answers !== this.#silent.has(id)) continue;
      if (answers) this.#silent.delete(id);
      else this.#silent.add(id);
      this.#onChange(id);
    }
  }
}
