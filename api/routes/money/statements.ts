import type { Response } from 'express';
import { z } from 'zod';
import { type BudgetRecord, changeBudget, changeBudgetRemoved, readBudgets } from '../../../ledger/market/budgets.ts';
import { readFocusCharges, readFocusOwner } from '../../../ledger/market/read-focus.ts';
import { readStatement } from '../../../ledger/market/read-statement.ts';
import { focusHeader, focusLine } from '../../../model/money/focus.ts';
import { monthInterval, type Statement as StatementRecord, statementCsv, statementHtml } from '../../../model/money/statement.ts';
import type { ApiDeps } from '../../deps.ts';
import { json, noContent, streamed } from '../../http/answer.ts';
import { visibleOwner } from '../../http/auth.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { Budget, BudgetOrder, OfCurrency, OfMonth, Statement } from '../../schemas/money/statements.ts';

const show = ({ owner, month, final, parts }: StatementRecord): z.input<typeof Statement> => ({
  owner: owner.id,
  month,
  final,
  currencies: parts.map(({ currency, openingMicros, closingMicros, heldMicros, lines }) => ({
    currency,
    openingMicros: String(openingMicros),
    lines: lines.map(({ currency: _, amountMicros, ...line }) => ({ ...line, amountMicros: String(amountMicros) })),
    closingMicros: String(closingMicros),
    heldMicros: String(heldMicros),
  })),
});

const showBudget = ({
  ownerId,
  currency,
  monthlyMicros,
  thresholds,
  month,
  spentMicros,
}: BudgetRecord): z.input<typeof Budget> => ({
  owner: ownerId,
  currency,
  monthlyMicros: String(monthlyMicros),
  thresholds,
  month,
  spentMicros: String(spentMicros),
});

interface FocusRequest {
  whose: string;
  month: string;
  interval: { fromMs: number; untilMs: number };
}

/** Day by day, so that no month is in memory whole. Throws not-found for an owner. */
async function sendFocus({ ledger }: ApiDeps, res: Response, { whose, month, interval }: FocusRequest): Promise<typeof streamed> {
  const account = { owner: await readFocusOwner(ledger, whose), month: interval };
  res.set('Content-Disposition', `attachment; filename="focus-${month}.csv"`);
  res.type('text/csv; charset=utf-8').write(focusHeader);
  for await (const charges of readFocusCharges(ledger, { owner: whose, ...interval }))
    res.write(charges.map((charge) => focusLine(charge, account)).join(''));
  res.end();
  return streamed;
}

export function statementRoutes(deps: ApiDeps): Operation[] {
  const { ledger, log, clock } = deps;
  return [
    operation({
      method: 'get',
      path: '/v1/statements/{month}',
      id: 'getStatement',
      tag: 'statements',
      summary: "An owner's money over a month, with lines that add up",
      description:
        "The key's owner's; operators may name any. `format=csv` and `html` have the same lines; `focus` has the charges by day as CSV in the columns of FOCUS 1.0, which add up to them.",
      access: 'client',
      params: OfMonth,
      query: z.strictObject({
        owner: z.string().max(64).optional().meta({ description: 'Whose; operators may name any' }),
        format: z.enum(['json', 'csv', 'html', 'focus']).default('json'),
      }),
      answers: { 200: { description: 'The statement', schema: Statement, media: ['text/csv', 'text/html'] } },
      problems: ['not-found'],
      handle: async ({ caller, params: { month }, query: { owner, format }, res }) => {
        const whose = (visibleOwner(caller) === null ? owner : undefined) ?? caller.ownerId;
        const { fromMs, untilMs } = monthInterval(month)!;
        if (format === 'focus') return sendFocus(deps, res, { whose, month, interval: { fromMs, untilMs } });
        const statement = await readStatement(ledger, { owner: whose, month, fromMs, untilMs, nowMs: clock() });
        if (format === 'json') return json(200, show(statement));
        if (format === 'csv') {
          res.set('Content-Disposition', `attachment; filename="statement-${month}.csv"`);
          res.type('text/csv; charset=utf-8').end(statementCsv(statement));
        } else res.type('text/html; charset=utf-8').end(statementHtml(statement));
        return streamed;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/budgets',
      id: 'listBudgets',
      tag: 'statements',
      summary: 'Budgets, with what was charged in this month',
      description: "A client's own; operators see the first thousand of all.",
      access: 'client',
      answers: { 200: { description: 'By owner and currency', schema: z.strictObject({ items: z.array(Budget) }) } },
      problems: [],
      handle: async ({ caller }) =>
        json(200, { items: (await readBudgets(ledger, visibleOwner(caller), clock())).map(showBudget) }),
    }),
    operation({
      method: 'put',
      path: '/v1/budgets/{currency}',
      id: 'setBudget',
      tag: 'statements',
      summary: "Set the monthly budget of the key's owner",
      description:
        'At each threshold the event `berth.budget.reached` tells it, once a month. It refuses nothing: credit limits do.',
      access: 'client',
      params: OfCurrency,
      body: BudgetOrder,
      answers: { 200: { description: 'Set', schema: Budget } },
      problems: [],
      handle: async ({ caller, params: { currency }, body }) => {
        const { thresholds } = body;
        const order = { owner: caller.ownerId, currency, monthlyMicros: BigInt(body.monthlyMicros), thresholds, nowMs: clock() };
        const budget = showBudget(await changeBudget(ledger, order));
        log.info({ owner: caller.ownerId, currency, ...body, keyId: caller.keyId }, 'budget set');
        return json(200, budget);
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/budgets/{currency}',
      id: 'removeBudget',
      tag: 'statements',
      summary: "Remove the budget of the key's owner",
      access: 'client',
      params: OfCurrency,
      answers: { 204: { description: 'Removed' } },
      problems: ['not-found'],
      handle: async ({ caller, params: { currency } }) => {
        await changeBudgetRemoved(ledger, caller.ownerId, currency);
        return noContent;
      },
    }),
  ];
}
