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

/** The watchdog of a host: it follows the samples, and says when they call for help. */
export class HostWatchdog {
  readonly #settings: () => LoadSettings;
  #watch: WatchState = calmWatch;
  #asksAtMs = 0;

  constructor(settings: () => LoadSettings) {
    this.#settings = settings;
  }

  /** Why to ask for help now; null: not now. It learns also while nobody would answer. */
  observe(sample: LoadSample): WatchVerdict | null {
    this.#watch = observeLoad(this.#watch, sample);
    if (this.#watch.points === 0 || !this.#settings().asksForHelp) return null;
    const verdict = judgeLoad(this.#watch, sample);
    if (!verdict.asks || sample.atMs < this.#asksAtMs) return null;
    this.#asksAtMs = sample.atMs + Math.max(asksAgainS, verdict.seen.stressedS / 2) * 1000;
    return verdict;
  }

  /** A VM has left: whether it was for help or not, the stress is another one now. */
  vmLeft(): void {
    this.#watch = forgetStress(this.#watch);
    this.#asksAtMs = 0;
  }
}
