import { openAccount, ownerAccount } from '../../ledger/books/accounts.ts';
import { type NewTransfer, postTransfers } from '../../ledger/books/post-transfers.ts';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { settleLease } from '../../ledger/market/settle-lease.ts';
import { inTransaction, requestLimits } from '../../ledger/transaction.ts';
import { type AccountId, newId } from '../../model/ids.ts';
import type { Usage } from '../../model/task.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import type { BenchOptions } from '../options.ts';
import { inTurns, withLedgerServer } from './ledger-server.ts';
import { processorSeconds } from './webhook-load.ts';

type Site = Parameters<Parameters<typeof withLedgerServer>[2]>[0];

const clients = 24;
const owners = 200;
const providers = 10;
/** Settled in a run over many accounts; on one account as many as take the same time. */
const most = { many: 4000, hot: 1600 };
const limits = { many: 1000, hot: 300 };
const startMs = Date.parse('2026-11-30T10:00:00Z');
const endMs = startMs + 600_000;
const holdMicros = 1_000_000n;
const batch = 50;
const now = new Date(endMs).toISOString();

/** A lease of one VM, which has run for ten minutes at one of the providers, and has ended. */
interface EndedLease {
  lease: string;
  vm: string;
  owner: string;
  account: AccountId;
  provider: string;
}

interface Payer {
  owner: string;
  account: AccountId;
}

/**
 * `settlements.*`: settlements of leases a second, each in a transaction of its own as the end of a lease makes it: the bill is read and
 * locked, its usage priced, the hold captured for the provider, the site and taxes, the rest given back, the hold closed, the event
 * written. 24 clients of one process, on a server that flushes to the disk: over the accounts of 200 owners (`many`, limit 1,000/s), and
 * of one (`hot`, limit 300/s). The baseline is a bare UPDATE of one row a transaction through the driver: over as many rows as owners,
 * and of one. `cpuMs` is the processor time of a settlement, of this process and of PostgreSQL's.
 */
export async function benchSettlements({ runs }: BenchOptions): Promise<void> {
  await withLedgerServer('settlements', clients, (site) => compare(site, Math.max(3, runs ?? 5)));
}

async function compare(site: Site, runs: number): Promise<void> {
  const payers = await openSite(site);
  const rates = { many: [] as number[], hot: [] as number[], bareMany: [] as number[], bareHot: [] as number[] };
  const cpu = { many: [] as Cpu[], hot: [] as Cpu[] };
  let settled = 0;
  for (let run = -1; run < runs; run += 1) {
    const bareMany = await perSecond(most.many, (n) => bare(site, n % owners));
    const bareHot = await perSecond(most.hot, () => bare(site, 0));
    for (const mode of ['many', 'hot'] as const) {
      const leases = await addLeases(site, mode === 'many' ? payers : payers.slice(0, 1), most[mode]);
      const before = await processorTime(site);
      const began = performance.now();
      await inTurns(clients, leases, (lease) => settle(site, lease));
      const rate = leases.length / ((performance.now() - began) / 1000);
      const used = per(leases.length, before, await processorTime(site));
      settled += leases.length;
      const cost = `${used.node.toFixed(2)} ms of Node and ${used.postgres.toFixed(2)} ms of PostgreSQL each`;
      logProgress(`run ${run + 1}: ${mode} ${rate.toFixed(0)} settlements/s, ${cost}${run < 0 ? ' (warm-up)' : ''}`);
      if (run < 0) continue;
      rates[mode].push(rate);
      cpu[mode].push(used);
    }
    if (run < 0) continue;
    rates.bareMany.push(bareMany);
    rates.bareHot.push(bareHot);
  }
  await requireSettled(site, settled);
  for (const mode of ['many', 'hot'] as const) {
    const cpuMs = {
      node: median(cpu[mode].map(({ node }) => node)),
      postgres: median(cpu[mode].map(({ postgres }) => postgres)),
    };
    const rate = median(rates[mode]);
    printFigure(`settlements.${mode}`, rate, 'settlements/s', median(mode === 'many' ? rates.bareMany : rates.bareHot), {
      runs,
      clients,
      limit: limits[mode],
      cpuMs,
    });
    if (rate >= limits[mode]) continue;
    logProgress(`settlements.${mode} is ${rate.toFixed(0)}/s: below its limit of ${limits[mode]}/s`);
    process.exitCode = 1;
  }
}

async function openSite({ ledger, pool }: Site): Promise<Payer[]> {
  await pool.query('CREATE TABLE bare (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0)');
  await pool.query('INSERT INTO bare SELECT generate_series(0, $1::int - 1)', [owners]);
  const payers: Payer[] = [];
  for (let n = 0; n < owners; n += 1) {
    const owner = newId('owner');
    await ledger.owner.create({ data: { id: owner, name: `owner-${n}` } });
    const limit = { lowerLimitMicros: -(10n ** 17n), nowMs: startMs };
    const { id } = await inTransaction(ledger, (tx) => openAccount(tx, ownerAccount(owner, 'EUR'), limit));
    payers.push({ owner, account: id });
  }
  return payers;
}

const terms = {
  rules: [{ vcpuHourMicros: '100000', memoryGiBHourMicros: '10000', diskGiBHourMicros: '1000' }],
  feeMillionths: 50_000,
  taxMillionths: 190_000,
};

/** Leases with bills and full holds, as their acceptance leaves them. */
async function addLeases(site: Site, payers: readonly Payer[], count: number): Promise<EndedLease[]> {
  const leases = Array.from({ length: count }, (_, n) => ({
    ...payers[n % payers.length]!,
    lease: newId('lease') as string,
    vm: newId('vm') as string,
    provider: `provider-${n % providers}`,
    hold: newId('account'),
  }));
  const rows = JSON.stringify(leases);
  const from = `jsonb_to_recordset($1::jsonb) AS r(lease text, vm text, owner text, account text, hold text)`;
  await site.pool.query(
    `INSERT INTO "Lease" (id, "ownerId", kind, "durationS") SELECT lease, owner, 'bestEffort', 3600 FROM ${from}`,
    [rows],
  );
  await site.pool.query(
    `INSERT INTO "Bill" ("leaseId", "subjectId", "ownerId", "accountId", currency, terms, "totalMicros", "holdMicros")
     SELECT lease, vm, owner, account, 'EUR', $2, $3, $3 FROM ${from}`,
    [rows, JSON.stringify(terms), String(holdMicros)],
  );
  await site.pool.query(
    `INSERT INTO "Account" (id, kind, "ownerId", holder, name, currency, "lowerLimit")
     SELECT hold, 'hold', owner, owner, lease, 'EUR', 0 FROM ${from}`,
    [rows],
  );
  const holds = leases.map(({ lease, account, hold }): NewTransfer => {
    const postings = [
      { account, amountMicros: -holdMicros },
      { account: hold, amountMicros: holdMicros },
    ];
    const act = { reason: 'held for the lease', subject: lease, keyId: null, idempotencyKey: `${lease}/hold`, atMs: startMs };
    return { ...act, kind: 'hold', postings };
  });
  const batches = Array.from({ length: Math.ceil(count / batch) }, (_, n) => holds.slice(n * batch, (n + 1) * batch));
  await inTurns(2, batches, (part) => postTransfers(site.ledger, part));
  // As autovacuum does at a site: without it, plans are made for tables that were empty.
  await site.pool.query('VACUUM ANALYZE');
  return leases;
}

const settle = ({ ledger }: Site, { lease, vm, owner, provider }: EndedLease): Promise<void> => {
  const startedAt = new Date(startMs).toISOString();
  const usage: Usage[] = [
    {
      vm,
      host: provider,
      provider,
      vcpus: 2,
      memoryMiB: 1024,
      startedAt,
      endedAt: now,
      vcpuSeconds: 1200,
      memoryMiBSeconds: 614_400,
    },
  ];
  const end = { owner, task: null, usage, disks: [{ id: vm, keptMiB: 1024, usageAt: null }], error: null, now };
  return inTransaction(ledger, (tx) => settleLease(tx, lease, end), requestLimits);
};

const bare = ({ pool }: Site, row: number): Promise<unknown> => pool.query('UPDATE bare SET n = n + 1 WHERE id = $1', [row]);

async function perSecond(count: number, act: (n: number) => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await inTurns(clients, [...Array(count).keys()], act);
  return count / ((performance.now() - began) / 1000);
}

interface Cpu {
  node: number;
  postgres: number;
}

interface ProcessorTime {
  nodeMs: number;
  /** Of each backend by its process: one that has ended since counts no more. */
  backendMs: Map<number, number>;
}

async function processorTime({ pool }: Site): Promise<ProcessorTime> {
  const { rows } = await pool.query<{ pid: number }>('SELECT pid FROM pg_stat_activity WHERE datname = current_database()');
  const { user, system } = process.cpuUsage();
  return { nodeMs: (user + system) / 1000, backendMs: new Map(rows.map(({ pid }) => [pid, processorSeconds(pid) * 1000])) };
}

function per(count: number, before: ProcessorTime, after: ProcessorTime): Cpu {
  const backends = [...after.backendMs].map(([pid, ms]) => ms - (before.backendMs.get(pid) ?? 0));
  return {
    node: (after.nodeMs - before.nodeMs) / count,
    postgres: backends.reduce((sum, ms) => sum + ms, 0) / count,
  };
}

async function requireSettled({ ledger, pool }: Site, settled: number): Promise<void> {
  const { problems } = await verifyBooks(ledger);
  const open = await ledger.bill.count({ where: { endedAt: null } });
  const events = await ledger.event.count({ where: { type: 'berth.bill.settled' } });
  const held = await ledger.account.count({ where: { kind: 'hold', closedAt: null } });
  const { rows } = await pool.query<{ charged: string }>('SELECT sum("chargedMicros")::text AS charged FROM "Bill"');
  // 2 vCPUs, a GiB of memory and a GiB of disk for ten minutes: 211,000 micro-units an hour.
  const due = String(BigInt(settled) * 35_167n);
  if (problems > 0 || open > 0 || held > 0 || events !== settled || rows[0]!.charged !== due)
    throw new Error(
      `BUG: of ${settled} settlements ${open} bills and ${held} holds are open, ${events} events are there, ${rows[0]!.charged} was charged of ${due}, and the books have ${problems} problems`,
    );
}
