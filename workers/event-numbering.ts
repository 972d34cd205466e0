import type { Ledger } from '../ledger/client.ts';
import { numberEvents } from '../ledger/events/number-events.ts';
import type { Logger } from '../model/log.ts';
import { type Repeating, startRepeating } from './repeat.ts';

/** Numbers events once a second until it is stopped. Any number of processes may: they take turns. */
export function startEventNumbering({ ledger, log }: { ledger: Ledger; log: Logger }): Repeating {
  return startRepeating({
    step: async () => ((await numberEvents(ledger)) ? 'more' : 'done'),
    intervalMs: 1000,
    log,
    level: 'warn',
    failure: 'events could not be numbered; readers number them when they read',
  });
}
