import type { QuarantineEntry } from '../../api/files/quarantine.ts';
import type { Repository } from '../../api/files/repository.ts';
import type { Ledger } from '../../ledger/client.ts';
import { readFileDigests, readLogHolders } from '../../ledger/files/sweep.ts';
import { inBatches } from './in-batches.ts';

interface Sources {
  ledger: Ledger;
  repository: Pick<Repository, 'quarantine'>;
}

/** Puts back what a row names: the ledger that took it out was not the right one. Returns how many. */
export async function putBackKnown({ ledger, repository }: Sources): Promise<number> {
  let count = 0;
  await inBatches(repository.quarantine.list(), async (entries) => {
    const files = entries.filter(({ kind }) => kind === 'files');
    const logs = entries.filter(({ kind }) => kind === 'logs').map(({ name }) => name);
    const digests = await readFileDigests(
      ledger,
      files.map(({ name }) => name.split('-')[0]!),
    );
    const holders = await readLogHolders(ledger, logs, new Date(0));
    const isKnown = ({ kind, name }: QuarantineEntry): boolean => {
      const [id = '', sha256] = name.split('-');
      return kind === 'logs' ? holders.has(name) : sha256 !== undefined && digests.get(id) === sha256;
    };
    for (const entry of entries) if (isKnown(entry) && (await repository.quarantine.putBack(entry))) count += 1;
  });
  return count;
}

/** Removes for good what was taken out before this time (ms since 1970). Returns how many. */
export async function removeOldQuarantine({ repository }: Pick<Sources, 'repository'>, before: number): Promise<number> {
  let count = 0;
  for await (const entry of repository.quarantine.list()) {
    if (entry.sinceMs > before) continue;
    await repository.quarantine.remove(entry);
    count += 1;
  }
  return count;
}
