import type pg from 'pg';
import { openAccount, ownerAccount, siteAccount } from '../../ledger/books/accounts.ts';
import { type NewTransfer, postTransfer, postTransfers } from '../../ledger/books/post-transfers.ts';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import type { Ledger } from '../../ledger/client.ts';
import { inTransaction, requestLimits } from '../../ledger/transaction.ts';
import { type AccountId, newId } from '../../model/ids.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import type { BenchOptions } from '../options.ts';
import { withLedgerServer } from './ledger-server.ts';

const clients = 24;
const owners = 200;
const secondsPerRun = 4;
const nowMs = Date.now();

interface Site {
  ledger: Ledger;
  pool: pg.Pool;
  /** With a lower limit, and more than enough in each. */
  accounts: AccountId[];
  fees: AccountId;
}

/**
 * `books.transfers.*`: transfers a second of 24 clients on a server that flushes to the disk, of three postings each: over 200
 * owners' accounts with a lower limit (`many`), and on one of them (`hot`), each a statement and transaction of its own; and over
 * many in a transaction of Prisma's with nothing else (`inTransaction`), and on one account with ten a call (`hotByTen`). `oneRow` is
 * what bounds one account: bare UPDATEs of one row a second, each of which is flushed before the next begins. The baseline is a bare INSERT of one row a transaction
 * through the driver, by as many clients in the same run.
 */
export async function benchBooks({ runs }: BenchOptions): Promise<void> {
  await withLedgerServer('books', clients, async ({ ledger, pool }) =>
    compare(await openSite(ledger, pool), Math.max(3, runs ?? 5)),
  );
}

async function openSite(ledger: Ledger, pool: pg.Pool): Promise<Site> {
  await pool.query('CREATE TABLE plain (id text PRIMARY KEY, data jsonb NOT NULL)');
  await pool.query('CREATE TABLE one (n bigint NOT NULL); INSERT INTO one VALUES (0)');
  const open = (ref: ReturnType<typeof siteAccount>, lowerLimitMicros: bigint | null) =>
    inTransaction(ledger, (tx) => openAccount(tx, ref, { lowerLimitMicros, nowMs }));
  const fees = (await open(siteAccount('fees', 'EUR'), null)).id;
  const accounts: AccountId[] = [];
  for (let n = 0; n < owners; n += 1) {
    const owner = await ledger.owner.create({ data: { id: newId('owner'), name: `owner-${n}` } });
    accounts.push((await open(ownerAccount(owner.id, 'EUR'), -(10n ** 17n))).id);
  }
  return { ledger, pool, accounts, fees };
}

type Measured = 'many' | 'hot' | 'hotByTen' | 'inTransaction' | 'bare' | 'oneRow';

async function compare(site: Site, runs: number): Promise<void> {
  const rates: Record<Measured, number[]> = { many: [], hot: [], hotByTen: [], inTransaction: [], bare: [], oneRow: [] };
  let posted = 0;
  for (let run = -1; run < runs; run += 1) {
    const bare = await repeat((n) => site.pool.query(`INSERT INTO plain VALUES ($1, '{"a":1}')`, [`${run}/${n}`]));
    const oneRow = await repeat(() => site.pool.query('UPDATE one SET n = n + 1'));
    const many = await repeat((n) => postTransfer(site.ledger, transfer(site, `m${run}/${n}`, n, n * 7 + 1)));
    const hot = await repeat((n) => postTransfer(site.ledger, transfer(site, `h${run}/${n}`, 0, 1 + (n % (owners - 1)))));
    const calls = await repeat((n) =>
      postTransfers(
        site.ledger,
        Array.from({ length: 10 }, (_, i) => transfer(site, `b${run}/${n}/${i}`, 0, 1 + ((n + i) % (owners - 1)))),
      ),
    );
    const hotByTen = 10 * calls;
    const within = await repeat((n) =>
      inTransaction(site.ledger, (tx) => postTransfer(tx, transfer(site, `t${run}/${n}`, n, n * 7 + 1)), requestLimits),
    );
    posted += many + hot + hotByTen + within;
    const shown = [many, hot, hotByTen, within, bare, oneRow].map((count) => (count / secondsPerRun).toFixed(0));
    logProgress(
      `run ${run + 1}: ${shown[0]} transfers/s, ${shown[1]} on one account, ${shown[2]} by ten, ${shown[3]} in transactions; ${shown[4]} bare inserts/s, ${shown[5]} updates of one row${run < 0 ? ' (warm-up)' : ''}`,
    );
    if (run < 0) continue;
    for (const [name, count] of Object.entries({ many, hot, hotByTen, inTransaction: within, bare, oneRow }))
      rates[name as Measured].push(count / secondsPerRun);
  }
  const { problems, transfers } = await verifyBooks(site.ledger);
  if (problems > 0 || transfers !== posted)
    throw new Error(`BUG: ${posted} transfers were posted, ${transfers} are there, and the books have ${problems} problems`);
  const detail = { runs, clients, postings: 3, oneRow: Math.round(median(rates.oneRow)) };
  for (const name of ['many', 'hot', 'hotByTen', 'inTransaction'] as const)
    printFigure(`books.transfers.${name}`, median(rates[name]), 'transfers/s', median(rates.bare), detail);
}

function transfer({ accounts, fees }: Site, idempotencyKey: string, from: number, to: number): NewTransfer {
  const payer = accounts[from % owners]!;
  const payee = accounts[to % owners]!;
  return {
    kind: 'capture',
    reason: 'usage',
    subject: 'task',
    keyId: null,
    idempotencyKey,
    atMs: nowMs,
    postings: [
      { account: payer, amountMicros: -1000n },
      { account: payee === payer ? accounts[(to + 1) % owners]! : payee, amountMicros: 970n },
      { account: fees, amountMicros: 30n },
    ],
  };
}

/** How often the clients together do it within a run. */
async function repeat(act: (n: number) => Promise<unknown>): Promise<number> {
  const until = performance.now() + secondsPerRun * 1000;
  let begun = 0;
  const client = async (): Promise<void> => {
    while (performance.now() < until) {
      begun += 1;
      await act(begun);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return begun;
}
