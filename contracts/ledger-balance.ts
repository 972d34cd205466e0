import type { DrainMove } from '../model/drain.ts';
import type { HostId } from '../model/ids.ts';
import type { WatchVerdict } from '../model/load/watch-verdict.ts';

/** What came of a request for help. */
export interface HelpAnswer {
  /** Offers are held, and the best may be taken. */
  offered: boolean;
  /** For people. */
  summary: string;
}

export interface BalanceLedger {
  /**
   * Decides which VMs leave a host that asks for help, and holds the capacity that other hosts offer, for a minute. Where none
   * leaves, or decisions are only shown, it is over. The same id again answers what was decided.
   */
  openHelp(id: string, host: HostId, verdict: WatchVerdict): Promise<HelpAnswer>;
  /** Takes the best offer for each VM, as an ordinary migration, and releases the others. */
  takeOffers(id: string): Promise<DrainMove[]>;
  /** Whether all migrations of the decision have ended. */
  hasSettled(id: string): Promise<boolean>;
  /** Measures the effect, releases what is still held, and ends the decision; the first end stands. */
  closeHelp(id: string, problem: string | null): Promise<void>;
}
