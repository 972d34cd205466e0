import { randomUUID } from 'node:crypto';
import type { MachineCounters } from '../../drivers/ports/load/load-meter.ts';
import { batching, type LearnedRow, type LoadBatch, type LoadValue, loadLimits } from '../../model/load/load.ts';
import { processorsOf } from './load-between.ts';

/** A sample that waits to be sent. */
interface KeptSample {
  endedMs: number;
  durationS: number;
  host: LoadValue[];
  vms: Record<string, LoadValue[]>;
}

export interface LoadReporterDeps {
  /** Rejects where the batch was not taken. */
  send: (batch: LoadBatch) => Promise<void>;
  /** The clock of the samples' ends. */
  nowMs: () => number;
  onFailure: (error: unknown) => void;
}

/**
 * Sends samples in batches, one at a time. A batch that was not taken is sent again, the same one, with the next heartbeat; of
 * what waits meanwhile the oldest goes first.
 */
export class LoadReporter {
  readonly #deps: LoadReporterDeps;
  readonly #worker = randomUUID();
  #sent = 0;
  #waiting: KeptSample[] = [];
  #unconfirmed: { id: string; samples: KeptSample[] } | null = null;
  #sending = Promise.resolve();
  #isSending = false;

  constructor(deps: LoadReporterDeps) {
    this.#deps = deps;
  }

  /** How many samples wait, those of a batch that was not confirmed included. */
  get kept(): number {
    return this.#waiting.length + (this.#unconfirmed?.samples.length ?? 0);
  }

  add(sample: KeptSample): void {
    this.#waiting.push(sample);
    const excess = this.kept - loadLimits.keptSamples;
    if (excess > 0) this.#waiting.splice(0, excess);
  }

  /** Begins to send what is due; does not wait for it. @param now all of it is due */
  sendDue(machine: MachineCounters, processorUse: readonly number[], learned: Record<string, LearnedRow>, now = false): void {
    const oldest = this.#waiting[0];
    const sendsNow =
      now ||
      this.#unconfirmed !== null ||
      this.#waiting.length >= batching.heartbeats ||
      (oldest !== undefined && this.#deps.nowMs() - oldest.endedMs >= batching.longestS * 1000);
    if (!sendsNow || this.#isSending) return;
    this.#unconfirmed ??= this.#nextBatch();
    const { id, samples } = this.#unconfirmed;
    const nowMs = this.#deps.nowMs();
    const batch: LoadBatch = {
      id,
      processors: Math.round(processorsOf(machine) * 1000) / 1000,
      memoryMiB: Math.round(machine.memory.totalMiB),
      diskMiB: Math.round(machine.disk.totalMiB),
      processorUse: processorUse.slice(0, loadLimits.processors).map((use) => Math.round(100 * use)),
      learned,
      samples: samples.map(({ endedMs, ...load }) => ({ agoS: Math.max(0, Math.round(nowMs - endedMs) / 1000), ...load })),
    };
    this.#isSending = true;
    this.#sending = this.#send(batch);
  }

  /** Resolves when nothing is being sent. */
  async settled(): Promise<void> {
    await this.#sending;
  }

  async #send(batch: LoadBatch): Promise<void> {
    try {
      await this.#deps.send(batch);
      this.#unconfirmed = null;
    } catch (error) {
      this.#deps.onFailure(error);
    } finally {
      this.#isSending = false;
    }
  }

  #nextBatch(): { id: string; samples: KeptSample[] } {
    let rows = 0;
    const count = this.#waiting.findIndex(({ vms }, at) => {
      rows += Object.keys(vms).length;
      return at > 0 && (at >= loadLimits.samplesPerBatch || rows > loadLimits.vmRows);
    });
    const samples = this.#waiting.splice(0, count === -1 ? this.#waiting.length : count);
    this.#sent += 1;
    return { id: `${this.#worker}-${this.#sent}`, samples };
  }
}
