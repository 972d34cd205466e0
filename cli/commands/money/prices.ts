import { type Command, Option } from 'commander';
import { callJson, list, postOnce, type Session } from '../../client.ts';
import { given, readJson } from '../../options.ts';
import { printOne, printRows } from '../../output.ts';
import { time } from '../../times.ts';
import { units } from './units.ts';

interface PriceBook {
  id: string;
  currency: string;
  terms: { rules: object[] };
  validFrom: string;
  validUntil: string | null;
}

interface Bill {
  lease: string;
  subject: string;
  currency: string;
  totalMicros: string | null;
  chargedMicros: string;
  heldMicros: string;
  warnedAt: string | null;
  endedAt: string | null;
}

function addPrices(program: Command, { connect, output }: Session): void {
  const prices = program.command('prices').description('price books: what leases cost that are accepted while they are valid');

  prices
    .command('list', { isDefault: true })
    .description('list price books, newest first')
    .addHelpText('after', '\nExample:\n  berth prices list')
    .action(async () => {
      printRows(output(), await list<PriceBook>(connect(), '/v1/prices', {}, 10_000), {
        id: ({ id }) => id,
        currency: ({ currency }) => currency,
        rules: ({ terms }) => terms.rules.length,
        from: ({ validFrom }) => validFrom,
        until: ({ validUntil }) => validUntil,
      });
    });

  prices
    .command('add')
    .description('add a price book (operators); from then on owners without an account of its currency are refused')
    .argument('<currency>', 'three capital letters, such as EUR')
    .requiredOption('--terms <path>', 'its terms as JSON, as docs/prices.md has them; - for the standard input')
    .addOption(new Option('--from <time>', 'when it begins: RFC 3339, or 15m, 2h, +900 from now on; default now').argParser(time))
    .addOption(new Option('--until <time>', 'when it ends; default: it has no end').argParser(time))
    .addHelpText('after', '\nExample:\n  berth prices add EUR --terms prices.json --from 2h')
    .action(async (currency: string, options: { terms: string; from?: string; until?: string }) => {
      const connection = connect();
      const terms = await readJson(options.terms);
      const json = given({ currency, terms, validFrom: options.from, validUntil: options.until });
      printOne(output(), await postOnce<object>(connection, '/v1/prices', json));
    });

  prices
    .command('end')
    .description('end a price book now (operators); quotes and bills keep its prices')
    .argument('<book>', 'its id')
    .addHelpText('after', '\nExample:\n  berth prices end price_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (id: string) => {
      printOne(output(), await callJson<object>(connect(), `/v1/prices/${encodeURIComponent(id)}`, { method: 'DELETE' }));
    });
}

function addBills(program: Command, { connect, output }: Session): void {
  const bills = program.command('bills').description('what leases have cost, what they can cost, and what is held for them');

  bills
    .command('list', { isDefault: true })
    .description('list bills, newest first')
    .addHelpText('after', '\nExample:\n  berth bills list')
    .action(async () => {
      printRows(output(), await list<Bill>(connect(), '/v1/bills', {}, 10_000), {
        lease: ({ lease }) => lease,
        of: ({ subject }) => subject,
        charged: ({ chargedMicros }) => units(chargedMicros),
        most: ({ totalMicros }) => units(totalMicros),
        held: ({ heldMicros }) => units(heldMicros),
        currency: ({ currency }) => currency,
        warned: ({ warnedAt }) => warnedAt,
        ended: ({ endedAt }) => endedAt,
      });
    });

  bills
    .command('show')
    .description('the bill of a lease, a task or a standalone VM')
    .argument('<id>', 'its id')
    .addHelpText('after', '\nExample:\n  berth bills show task_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (id: string) => {
      printOne(output(), await callJson<object>(connect(), `/v1/bills/${encodeURIComponent(id)}`));
    });
}

/** `berth prices …` and `berth bills …`. */
export function addPriceCommands(program: Command, session: Session): void {
  addPrices(program, session);
  addBills(program, session);
}
