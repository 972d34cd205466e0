import type { z } from 'zod';
import {
  acceptPriceBookOnce,
  changePriceBookEnded,
  type PriceBookRecord,
  readPriceBooks,
} from '../../../ledger/market/price-books.ts';
import { type BillRecord, findBill, readBills } from '../../../ledger/market/read-bills.ts';
import type { ApiDeps } from '../../deps.ts';
import { json } from '../../http/answer.ts';
import { visibleOwner } from '../../http/auth.ts';
import { idempotentPost } from '../../http/idempotency.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../../http/page.ts';
import { Id, iso } from '../../schemas/common.ts';
import { Bill, PriceBook, PriceBookOrder } from '../../schemas/money/prices.ts';

const showBook = (row: PriceBookRecord): z.input<typeof PriceBook> => ({
  ...row,
  validFrom: row.validFrom.toISOString(),
  validUntil: iso(row.validUntil),
  createdAt: row.createdAt.toISOString(),
});

const showBill = (row: BillRecord): z.input<typeof Bill> => ({
  lease: row.id,
  owner: row.ownerId,
  subject: row.subjectId,
  account: row.accountId,
  currency: row.currency,
  quote: row.quoteId,
  terms: row.terms,
  totalMicros: row.totalMicros === null ? null : String(row.totalMicros),
  chargedMicros: String(row.chargedMicros),
  heldMicros: String(row.heldMicros),
  uncollectedMicros: String(row.uncollectedMicros),
  chargedAt: iso(row.chargedAt),
  warnedAt: iso(row.warnedAt),
  suspendedAt: iso(row.suspendedAt),
  createdAt: row.createdAt.toISOString(),
  endedAt: iso(row.endedAt),
});

export function priceRoutes({ ledger, log, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/prices',
      id: 'listPriceBooks',
      tag: 'prices',
      summary: 'List price books, newest first',
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(PriceBook) } },
      problems: [],
      handle: async ({ query }) => json(200, await readPage('prices', query, (page) => readPriceBooks(ledger, page), showBook)),
    }),
    operation({
      method: 'post',
      path: '/v1/prices',
      id: 'addPriceBook',
      tag: 'prices',
      summary: 'Add a price book',
      description:
        'From validFrom on, what is accepted is billed by it, and its owner needs an account of its currency. Of several books of one currency the one that began last has the prices. What was accepted or quoted before keeps its own.',
      access: 'operator',
      body: PriceBookOrder,
      answers: { 201: { description: 'Added', schema: PriceBook } },
      problems: [],
      handle: async ({ caller, body, idempotencyKey }) => {
        const request = idempotentPost(caller, idempotencyKey, '/v1/prices', body);
        const nowMs = clock();
        const { currency, terms, validFrom, validUntil } = body;
        const order = {
          currency,
          terms,
          validFromMs: validFrom === undefined ? nowMs : Date.parse(validFrom),
          validUntilMs: validUntil === undefined ? null : Date.parse(validUntil),
          nowMs,
        };
        const { answer, replayed } = await acceptPriceBookOnce(ledger, request, order, (row) => json(201, showBook(row)));
        log.info({ ...body, keyId: caller.keyId, replayed }, 'price book added by an operator');
        return answer;
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/prices/{id}',
      id: 'endPriceBook',
      tag: 'prices',
      summary: 'End a price book now',
      description: 'Nothing is accepted by it from now on. Its quotes and bills keep its prices.',
      access: 'operator',
      params: Id,
      answers: { 200: { description: 'Ended', schema: PriceBook } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => {
        const book = showBook(await changePriceBookEnded(ledger, id, clock()));
        log.info({ priceBook: id, keyId: caller.keyId }, 'price book ended by an operator');
        return json(200, book);
      },
    }),
    operation({
      method: 'get',
      path: '/v1/bills',
      id: 'listBills',
      tag: 'prices',
      summary: 'List bills of leases, newest first',
      description: "A client's own; operators see all.",
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Bill) } },
      problems: [],
      handle: async ({ caller, query }) =>
        json(200, await readPage('bills', query, (page) => readBills(ledger, visibleOwner(caller), page), showBill)),
    }),
    operation({
      method: 'get',
      path: '/v1/bills/{id}',
      id: 'getBill',
      tag: 'prices',
      summary: 'The bill of a lease, a task or a standalone VM',
      access: 'client',
      params: Id,
      answers: { 200: { description: 'What it has cost until now', schema: Bill } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => json(200, showBill(await findBill(ledger, visibleOwner(caller), id))),
    }),
  ];
}
