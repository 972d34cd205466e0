import type { LoadSettings } from '../../model/load/load.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import {
  calmWatch,
  forgetStress,
  judgeLoad,
  type LoadSample,
  observeLoad,
  type WatchState,
} from '../../scheduler/balance/watchdog.ts';

/** A host to which the answer was no asks again after half as long as its stress has lasted, and not before this. */
const asksAgainS = 10;

/** The watchdog of a host: it follows the samples, and asks for help where they call for it. */
export class HostWatchdog {
  readonly #settings: () => LoadSettings;
  readonly #ask: (verdict: WatchVerdict) => void;
  #watch: WatchState = calmWatch;
  #asksAtMs = 0;

  /** @param ask is not waited for */
  constructor(settings: () => LoadSettings, ask: (verdict: WatchVerdict) => void) {
    this.#settings = settings;
    this.#ask = ask;
  }

  /** It learns also while nobody would answer. */
  observe(sample: LoadSample): void {
    this.#watch = observeLoad(this.#watch, sample);
    if (this.#watch.points === 0 || !this.#settings().asksForHelp) return;
    const verdict = judgeLoad(this.#watch, sample);
    if (!verdict.asks || sample.atMs < this.#asksAtMs) return;
    this.#asksAtMs = sample.atMs + Math.max(asksAgainS, verdict.seen.stressedS / 2) * 1000;
    this.#ask(verdict);
  }

  /** A VM has left: whether it was for help or not, the stress is another one now. */
  vmLeft(): void {
    this.#watch = forgetStress(this.#watch);
    this.#asksAtMs = 0;
  }
}
