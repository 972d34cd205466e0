import type { Ledger } from '../ledger/client.ts';
import { numberEvents } from '../ledger/events/number-events.ts';
import type { Logger } from '../model/log.ts';

const intervalMs = 1000;

/** Numbers events once a second until it is stopped. Any number of processes may: they take turns. */
export function startEventNumbering({ ledger, log }: { ledger: Ledger; log: Logger }): { stop: () => Promise<void> } {
  const stopping = Promise.withResolvers<void>();
  let stopped = false;
  const run = async (): Promise<void> => {
    while (!stopped) {
      try {
        if (await numberEvents(ledger)) continue;
      } catch (error) {
        log.warn({ err: error }, 'events could not be numbered; readers number them when they read');
      }
      const wait = Promise.withResolvers<void>();
      const timer = setTimeout(wait.resolve, intervalMs);
      await Promise.race([wait.promise, stopping.promise]);
      clearTimeout(timer);
    }
  };
  const running = run();
  return {
    async stop() {
      stopped = true;
      stopping.resolve();
      await running;
    },
  };
}
