import { readConfig } from '../../model/config.ts';

/** What the ledger's activities need to know, with everything else at its default. */
export function ledgerConfig() {
  return readConfig(['signing', 'control'], {
    BERTH_SIGNING_KEY: 'k'.repeat(32),
    BERTH_REPOSITORY_URL: 'http://repository.test',
  });
}
