import { type Command, InvalidArgumentError, Option } from 'commander';
import { accountKinds, parseUnits } from '../../../model/books/money.ts';
import { CommandError, callJson, list, postOnce, type Session } from '../../client.ts';
import { resolveOwner } from '../../names.ts';
import { given, positiveNumber } from '../../options.ts';
import { printOne, printRows } from '../../output.ts';
import { units } from './units.ts';

interface Account {
  id: string;
  kind: string;
  owner: string | null;
  holder: string;
  name: string;
  currency: string;
  balanceMicros: string;
  lowerLimitMicros: string | null;
  closedAt: string | null;
}

interface Entry {
  transfer: string;
  kind: string;
  reason: string;
  subject: string;
  amountMicros: string;
  balanceMicros: string | null;
  at: string;
}

interface BooksProof {
  accounts: number;
  transfers: number;
  entries: number;
  problems: number;
  found: { kind: string; id: string; detail: string }[];
}

const path = (id: string): string => `/v1/accounts/${encodeURIComponent(id)}`;

/** Argument parser: units of a currency, as 12.50; returns micro-units. */
function money(text: string): string {
  const micros = parseUnits(text);
  if (micros === null) throw new InvalidArgumentError('expected an amount such as 12.50, with at most six decimals');
  return String(micros);
}

/** `berth accounts …` and `berth admin verify-books`. */
export function addAccountCommands(program: Command, { connect, output }: Session): void {
  const accounts = program.command('accounts').description('money: accounts, their entries, adjustments');

  accounts
    .command('list', { isDefault: true })
    .description('list accounts with their balances, newest first: your own, or of operators all')
    .option('--owner <owner>', 'only those of this owner (operators)')
    .addOption(new Option('--kind <kind>', 'only those of this kind').choices(accountKinds))
    .addHelpText('after', '\nExample:\n  berth accounts list --kind owner')
    .action(async (options: { owner?: string; kind?: string }) => {
      const connection = connect();
      const owner = options.owner === undefined ? undefined : await resolveOwner(connection, options.owner);
      const query = given({ owner, kind: options.kind }) as Record<string, string>;
      printRows(output(), await list<Account>(connection, '/v1/accounts', query, 10_000), {
        id: ({ id }) => id,
        kind: ({ kind }) => kind,
        holder: ({ holder }) => holder,
        name: ({ name }) => name,
        balance: ({ balanceMicros }) => units(balanceMicros),
        currency: ({ currency }) => currency,
        limit: ({ lowerLimitMicros }) => units(lowerLimitMicros),
        closed: ({ closedAt }) => closedAt,
      });
    });

  accounts
    .command('open')
    .description("open an owner's account of a currency (operators)")
    .argument('<owner>', 'its id or its name')
    .argument('<currency>', 'three capital letters, such as EUR')
    .option('--credit <amount>', 'by how much it may fall below zero; without it, it is prepaid', money)
    .addHelpText('after', '\nExamples:\n  berth accounts open physics EUR\n  berth accounts open chemistry EUR --credit 500')
    .action(async (name: string, currency: string, { credit = '0' }: { credit?: string }) => {
      const connection = connect();
      const owner = await resolveOwner(connection, name);
      const json = { owner, currency, lowerLimitMicros: String(-BigInt(credit)) };
      printOne(output(), await postOnce<Account>(connection, '/v1/accounts', json));
    });

  accounts
    .command('entries')
    .description('list the entries of an account, newest first')
    .argument('<account>', 'its id')
    .option('--limit <count>', 'so many at most', positiveNumber, 100)
    .addHelpText('after', '\nExample:\n  berth accounts entries account_01jd7x3v8ve5hb1f5wwfb2x5r1 --limit 20')
    .action(async (id: string, { limit }: { limit: number }) => {
      printRows(output(), await list<Entry>(connect(), `${path(id)}/entries`, {}, limit), {
        at: ({ at }) => at,
        amount: ({ amountMicros }) => units(amountMicros),
        balance: ({ balanceMicros }) => units(balanceMicros),
        kind: ({ kind }) => kind,
        subject: ({ subject }) => subject,
        reason: ({ reason }) => reason,
        transfer: ({ transfer }) => transfer,
      });
    });

  accounts
    .command('adjust')
    .description('add to an account, or take from it, by hand (operators)')
    .argument('<account>', 'its id')
    .requiredOption('--amount <amount>', 'in units of its currency, such as 12.50; below zero it is taken: --amount=-3', money)
    .requiredOption('--reason <text>', 'for those who read its entries')
    .option('--key <text>', 'names the adjustment for good, so that it is posted once; by default a random one')
    .addHelpText(
      'after',
      "\nExample:\n  berth accounts adjust account_01jd7x3v8ve5hb1f5wwfb2x5r1 --amount 250 --reason 'invoice 17 was paid' --key invoice-17",
    )
    .action(async (id: string, options: { amount: string; reason: string; key?: string }) => {
      const json = { amountMicros: options.amount, reason: options.reason };
      printOne(output(), await postOnce<object>(connect(), `${path(id)}/adjustments`, json, options.key));
    });

  program
    .command('admin')
    .description('what operators check')
    .command('verify-books')
    .description('read all entries again, and say what is wrong with the books; exits with 1 where something is')
    .addHelpText('after', '\nExample:\n  berth admin verify-books')
    .action(async () => {
      const proof = await callJson<BooksProof>(connect(), '/v1/books');
      const { found, ...counts } = proof;
      if (output().json) printOne(output(), proof);
      else {
        printOne(output(), counts);
        if (found.length > 0)
          printRows(output(), found, { rule: ({ kind }) => kind, id: ({ id }) => id, detail: ({ detail }) => detail });
      }
      if (proof.problems > 0) throw new CommandError(`The books have ${proof.problems} problems`);
    });
}
