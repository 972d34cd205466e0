import { openLedger } from '../../ledger/client.ts';
import { stepPlan } from '../../ledger/leases/execute-plan.ts';
import { readConfig } from '../../model/config.ts';

/** Several, so that what each leaves to the collector counts. */
const steps = 8;

/**
 * A process that plans and does nothing else, as a control worker does: DATABASE_URL and the time of the ledger, in ms since 1970, in
 * its arguments. Prints the most memory that it had at a time, in MiB.
 */
const [databaseUrl, nowMs] = process.argv.slice(2);
if (databaseUrl === undefined || nowMs === undefined) throw new Error('Usage: planner-memory.ts DATABASE_URL NOW_MS');
const ledger = openLedger(databaseUrl, 2);
const config = readConfig(['signing', 'control'], process.env);
for (let n = 0; n < steps; n += 1) await stepPlan({ ledger, ...config, clock: () => Number(nowMs) });
console.log(String(process.resourceUsage().maxRSS / 1024));
await ledger.$disconnect();
process.exit(0);
