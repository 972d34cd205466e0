import type { Response } from 'express';
import type { Ledger } from '../../ledger/client.ts';
import { findEndedKeys } from '../../ledger/owners/find-api-key.ts';
import type { Logger } from '../../model/log.ts';
import { repeatWhile } from '../repeat-while.ts';

/** How often the keys of requests that are under way are checked. */
const checkMs = 500;

/**
 * The requests under way, by their key. Those of a key that was revoked or has expired are ended: a followed log may last
 * for days, and an upload for hours.
 */
export interface OpenRequests {
  track(keyId: string, res: Response): void;
}

export function trackOpenRequests(ledger: Ledger, log: Logger, clock: () => number): OpenRequests {
  const open = new Map<string, Set<Response>>();

  async function endRevoked(): Promise<void> {
    for (const keyId of await findEndedKeys(ledger, [...open.keys()], clock())) {
      const ended = [...(open.get(keyId) ?? [])];
      for (const res of ended) {
        // A session of a guest ends with its key; of other requests nothing is left anyway.
        res.emit('revoked');
        res.destroy();
      }
      log.info({ keyId, requests: ended.length }, 'requests of a key that is no longer valid were ended');
    }
  }

  const schedule = repeatWhile({
    isNeeded: () => open.size > 0,
    act: endRevoked,
    everyMs: checkMs,
    log,
    failure: 'the keys of open requests could not be checked; checked again soon',
  });

  return {
    track(keyId, res) {
      const requests = open.get(keyId) ?? new Set();
      open.set(keyId, requests.add(res));
      res.once('close', () => {
        requests.delete(res);
        if (requests.size === 0 && open.get(keyId) === requests) open.delete(keyId);
      });
      schedule();
    },
  };
}
