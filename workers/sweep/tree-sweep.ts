import type { Repository } from '../../api/files/repository.ts';
import type { Ledger } from '../../ledger/client.ts';
import type { TreeSite } from '../../ledger/tree/entry-record.ts';
import { sweepTrees } from '../../ledger/tree/expiry.ts';
import type { Logger } from '../../model/log.ts';
import { type Repeating, startRepeating } from '../repeat.ts';

const intervalMs = 60_000;

interface Deps {
  ledger: Ledger;
  repository: Pick<Repository, 'removeContents'>;
  log: Logger;
  site: () => TreeSite;
}

/** Each minute: deletes files that have expired, and purges the trash. May run in several processes at once. */
export function startTreeSweep({ ledger, repository, log, site }: Deps): Repeating {
  return startRepeating({
    step: async () => {
      const { expired, purged, removed, more } = await sweepTrees(ledger, site());
      await repository.removeContents(removed);
      if (expired + purged + removed.length > 0) log.info({ expired, purged, files: removed.length }, 'trees were swept');
      return more ? 'more' : 'done';
    },
    intervalMs,
    log,
    level: 'error',
    failure: 'sweeping the trees failed; the next round does its work',
  });
}
