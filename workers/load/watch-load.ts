import type { Clock } from '../../drivers/ports/clock.ts';
import type { LoadMeter } from '../../drivers/ports/load/load-meter.ts';
import { isId } from '../../model/ids.ts';
import type { LoadBatch, LoadSettings } from '../../model/load/load.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import type { Logger } from '../../model/log.ts';
import type { LoadSample } from '../../scheduler/balance/watchdog.ts';
import { LearnedUse } from './learned-use.ts';
import {
  loadBetween,
  pressureBetween,
  processorUse,
  type Reading,
  secondsBetween,
  stealBetween,
  useBetween,
} from './load-between.ts';
import { LoadReporter } from './load-reporter.ts';

/** How often the machine is read: what its watchdog needs to ask for help after ten seconds of overload. */
const stepMs = 1000;
/** Where less of the processors is used nothing waits for them, and the domains are read with heartbeats alone. */
const busyUse = 0.8;
/** How long a request for help waits for the load to be taken. */
const sentMs = 1000;

export interface LoadWatchDeps {
  meter: LoadMeter;
  clock: Clock;
  /** Read at each step, so that a change needs no restart. */
  settings: () => LoadSettings;
  send: (batch: LoadBatch) => Promise<void>;
  /** Given each step's sample; returns why to ask for help now. */
  onSample: (sample: LoadSample) => WatchVerdict | null;
  /** Asks for help, when what the decision is made from was sent; not waited for. */
  ask: (verdict: WatchVerdict) => void;
  /** A VM is not there any more. */
  onVmLeft: () => void;
  log: Logger;
  signal: AbortSignal;
}

/** Samples the load of the machine and its domains until it is aborted. A reading that fails is logged, and repeated. */
export async function watchLoad(deps: LoadWatchDeps): Promise<void> {
  const { clock, log, signal } = deps;
  const watch = new LoadWatch(deps);
  let failing = false;
  while (!signal.aborted) {
    try {
      await watch.step();
      failing = false;
    } catch (error) {
      // Once, and not each second.
      if (!failing) log.warn({ err: error }, 'the load could not be read; it is read again each second');
      failing = true;
    }
    await clock.sleep(stepMs, signal).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }
  await watch.settled();
}

/** The steps of a watch, and what they have read. */
class LoadWatch {
  readonly #deps: LoadWatchDeps;
  readonly #learned = new LearnedUse();
  readonly #reporter: LoadReporter;
  #last: Reading | null = null;
  #heartbeat: Reading | null = null;
  #mostUse = 0;

  constructor(deps: LoadWatchDeps) {
    this.#deps = deps;
    this.#reporter = new LoadReporter({
      send: deps.send,
      nowMs: () => deps.meter.nowMs(),
      onFailure: (error) => deps.log.warn({ err: error }, 'the load could not be reported; it is kept, and sent again'),
    });
  }

  settled(): Promise<void> {
    return this.#reporter.settled();
  }

  async step(): Promise<void> {
    const { meter, settings, onSample, onVmLeft } = this.#deps;
    const machine = await meter.readMachine();
    const [last, heartbeat] = [this.#last, this.#heartbeat];
    if (last === null || heartbeat === null) {
      this.#last = { machine, domains: await this.#readDomains() };
      this.#heartbeat = this.#last;
      return;
    }
    const durationS = secondsBetween(last.machine, machine);
    if (durationS === 0) return;
    const use = useBetween(last.machine, machine);
    // Half a step early rather than a whole one late.
    const isHeartbeat = machine.atMs - heartbeat.machine.atMs >= settings().heartbeatS * 1000 - stepMs / 2;
    const isRead = isHeartbeat || use >= busyUse;
    const domains = isRead ? await this.#readDomains() : last.domains;
    const names = new Set(domains.map(({ name }) => name));
    if (last.domains.some(({ name }) => !names.has(name))) onVmLeft();
    const steal = isRead ? stealBetween(last.domains, domains) : 0;
    const verdict = onSample({ atMs: machine.atMs, durationS, use, steal, psi: pressureBetween(last.machine, machine) });
    this.#last = { machine, domains };
    this.#mostUse = Math.max(this.#mostUse, use);
    if (isHeartbeat || verdict !== null) this.#beat(heartbeat, this.#last, verdict !== null);
    if (verdict !== null) await this.#askWith(verdict);
  }

  /** Of an API that does not answer no load is waited for: the decision is made from what it has. */
  async #askWith(verdict: WatchVerdict): Promise<void> {
    const { clock, signal, ask } = this.#deps;
    await Promise.race([this.#reporter.settled(), clock.sleep(sentMs, signal).catch(() => undefined)]);
    ask(verdict);
  }

  #beat(before: Reading, after: Reading, now: boolean): void {
    const load = loadBetween(before, after, this.#mostUse);
    this.#heartbeat = after;
    this.#mostUse = 0;
    if (load === null) return;
    this.#learned.observe(load.vms, load.durationS);
    this.#reporter.add({ endedMs: after.machine.atMs, ...load });
    this.#reporter.sendDue(after.machine, processorUse(before.machine, after.machine), this.#learned.rows(), now);
  }

  /** Of Berth's VMs alone. */
  async #readDomains() {
    return (await this.#deps.meter.readDomains()).filter(({ name }) => isId('vm', name));
  }
}
