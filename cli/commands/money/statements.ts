import { text } from 'node:stream/consumers';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { parseUnits } from '../../../model/books/money.ts';
import { monthOf, monthPattern } from '../../../model/money/statement.ts';
import { call, callEmpty, callJson, type Session } from '../../client.ts';
import { resolveOwner } from '../../names.ts';
import { given } from '../../options.ts';
import { print, printOne, printRows } from '../../output.ts';
import { units } from './units.ts';

interface Statement {
  owner: string;
  month: string;
  final: boolean;
  currencies: {
    currency: string;
    openingMicros: string;
    closingMicros: string;
    heldMicros: string;
    lines: { subject: string; reason: string; transfers: number; from: string; until: string; amountMicros: string }[];
  }[];
}

interface Budget {
  owner: string;
  currency: string;
  monthlyMicros: string;
  thresholds: number[];
  month: string;
  spentMicros: string;
}

function month(argument: string): string {
  if (!monthPattern.test(argument)) throw new InvalidArgumentError('expected a month such as 2026-11');
  return argument;
}

function amount(argument: string): string {
  const micros = parseUnits(argument);
  if (micros === null || micros <= 0n) throw new InvalidArgumentError('expected an amount above 0, such as 250 or 12.50');
  return String(micros);
}

const percents = (argument: string): number[] =>
  argument.split(',').map((one) => {
    if (!/^\d{1,4}$/.test(one)) throw new InvalidArgumentError('expected whole numbers, such as 50,80,100');
    return Number(one);
  });

/** `berth bill …` and `berth budgets …`. */
export function addStatementCommands(program: Command, { connect, output }: Session): void {
  program
    .command('bill')
    .description("a month's statement: opening balance, what has changed it, closing balance")
    .argument('[month]', 'in UTC, such as 2026-11; default: this month', month)
    .option('--owner <owner>', 'of this owner (operators)')
    .addOption(new Option('--format <format>', 'a file as it is kept, printed or analysed').choices(['csv', 'html', 'focus']))
    .addHelpText('after', '\nExamples:\n  berth bill\n  berth bill 2026-11 --format html')
    .action(async (of: string | undefined, options: { owner?: string; format?: string }) => {
      const connection = connect();
      const owner = options.owner === undefined ? undefined : await resolveOwner(connection, options.owner);
      const query = new URLSearchParams(given({ owner, format: options.format }) as Record<string, string>);
      const path = `/v1/statements/${of ?? monthOf(Date.now())}?${query}`;
      if (options.format !== undefined) {
        output().out.write(await text((await call(connection, path)).body));
        return;
      }
      const statement = await callJson<Statement>(connection, path);
      if (output().json) return printOne(output(), statement);
      for (const { currency, openingMicros, closingMicros, heldMicros, lines } of statement.currencies) {
        print(output(), `${currency}: ${units(openingMicros)} at the begin of ${statement.month}`);
        printRows(output(), lines, {
          from: ({ from }) => from,
          until: ({ until }) => until,
          amount: ({ amountMicros }) => units(amountMicros),
          reason: ({ reason }) => reason,
          subject: ({ subject }) => subject,
        });
        const state = statement.final ? 'at its end' : 'now';
        print(output(), `${currency}: ${units(closingMicros)} ${state}, of which ${units(heldMicros)} are held`);
      }
    });

  const budgets = program.command('budgets').description('what is meant to be spent in a month: events tell when it is');

  budgets
    .command('list', { isDefault: true })
    .description('list budgets with what was charged in this month')
    .addHelpText('after', '\nExample:\n  berth budgets list')
    .action(async () => {
      const { items } = await callJson<{ items: Budget[] }>(connect(), '/v1/budgets');
      printRows(output(), items, {
        owner: ({ owner }) => owner,
        currency: ({ currency }) => currency,
        monthly: ({ monthlyMicros }) => units(monthlyMicros),
        spent: ({ spentMicros }) => units(spentMicros),
        month: ({ month: of }) => of,
        thresholds: ({ thresholds }) => thresholds.join(','),
      });
    });

  budgets
    .command('set')
    .description('set the monthly budget of a currency')
    .argument('<currency>', 'three capital letters, such as EUR')
    .argument('<amount>', 'in its units, such as 250', amount)
    .option('--at <percents>', 'at which an event tells it; default 50,80,100', percents)
    .addHelpText('after', '\nExample:\n  berth budgets set EUR 250 --at 50,90,100')
    .action(async (currency: string, monthlyMicros: string, { at }: { at?: number[] }) => {
      const json = given({ monthlyMicros, thresholds: at });
      printOne(
        output(),
        await callJson<object>(connect(), `/v1/budgets/${encodeURIComponent(currency)}`, { method: 'PUT', json }),
      );
    });

  budgets
    .command('remove')
    .description('remove the budget of a currency')
    .argument('<currency>', 'such as EUR')
    .addHelpText('after', '\nExample:\n  berth budgets remove EUR')
    .action(async (currency: string) => {
      await callEmpty(connect(), `/v1/budgets/${encodeURIComponent(currency)}`, { method: 'DELETE' });
      print(output(), output().json ? JSON.stringify({ removed: currency }) : `the budget of ${currency} is removed`);
    });
}
