import { readConfig } from '../../model/config.ts';

/** The configuration of the ledger's activities, with everything else at its default. */
export function ledgerConfig() {
  return readConfig(['signing', 'control'], {
    BERTH_SIGNING_KEY: 'k'.repeat(32),
    BERTH_REPOSITORY_URL: 'http://repository.test',
  });
}
