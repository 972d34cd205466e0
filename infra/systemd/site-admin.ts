import { openLedger } from '../../ledger/client.ts';
import { readConfig } from '../../model/config.ts';
import { edgeKeyOf, hostKeyOf } from '../../model/repository/host-key.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { addOwner, publishImage } from '../site/seed.ts';

/**
 * Operations of a site's operator on the ledger itself, with /etc/berth/site.env in the environment:
 *   node infra/systemd/site-admin.ts add-owner NAME client|operator     prints a new API key, once
 *   node infra/systemd/site-admin.ts host-key HOST                      prints the host's key, for its BERTH_HOST_KEY_FILE
 *   node infra/systemd/site-admin.ts edge-key EDGE                      prints the edge's key, for its BERTH_EDGE_KEY_FILE
 *   node infra/systemd/site-admin.ts publish-image FOLDER API KEYFILE   for every owner; FOLDER as infra/setup writes it
 */
const [command, ...args] = process.argv.slice(2);
if ((command === 'host-key' || command === 'edge-key') && args.length === 1) {
  // With /etc/berth/control.env, which has the signing key; it needs no database.
  const { BERTH_SIGNING_KEY: signingKey } = readConfig(['signing'], process.env).signing;
  console.log((command === 'host-key' ? hostKeyOf : edgeKeyOf)(signingKey, String(args[0])));
  process.exit(0);
}
const { ledger: config } = readConfig(['ledger'], process.env);
await applyMigrations(config.DATABASE_URL);
const ledger = openLedger(config.DATABASE_URL, 1);
try {
  if (command === 'add-owner' && args[0] !== undefined && (args[1] === 'client' || args[1] === 'operator'))
    console.log(await addOwner(ledger, args[0], args[1]));
  else if (command === 'publish-image' && args.length === 3)
    console.log((await publishImage(ledger, String(args[1]), String(args[2]), String(args[0]))) ?? 'it was published already');
  else
    throw new Error(
      'Usage: site-admin.ts add-owner NAME client|operator, host-key HOST, edge-key EDGE, or publish-image FOLDER API KEYFILE',
    );
} finally {
  await ledger.$disconnect();
}
process.exit(0);
