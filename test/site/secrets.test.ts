import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openHome } from '../../infra/site/home.ts';
import { processesOfSite } from '../../infra/site/processes.ts';
import { onSharedSite } from './shared-site.ts';
import type { TestSite } from './the-site.ts';

let here: TestSite;
onSharedSite((site) => {
  here = site;
});

test('no host worker is given the ledger’s URL or the signing key', () => {
  const { path } = openHome(here.home);
  const workers = processesOfSite(path).filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('workers/host.ts'));
  expect(workers.length).toBeGreaterThanOrEqual(here.site.hosts.length);
  const signingKey = readFileSync(join(path, 'keys', 'signing'), 'utf8').trim();
  for (const pid of workers) {
    const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
    expect(environment).toMatch(/BERTH_HOST_ID=host\d/);
    expect(environment).not.toMatch(/DATABASE_URL|postgresql:|BERTH_SIGNING_KEY/);
    expect(environment).not.toContain(signingKey);
  }
});
