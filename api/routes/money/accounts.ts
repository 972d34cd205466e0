import { z } from 'zod';
import { type AccountRecord, findAccount, readAccounts } from '../../../ledger/books/accounts.ts';
import { type AdjustmentRecord, acceptAccountOnce, acceptAdjustmentOnce } from '../../../ledger/books/adjust.ts';
import { readBooksProof } from '../../../ledger/books/proof.ts';
import { type EntryRecord, readEntries } from '../../../ledger/books/read-entries.ts';
import { accountKinds } from '../../../model/books/money.ts';
import { BerthError } from '../../../model/errors.ts';
import type { ApiDeps } from '../../deps.ts';
import { json } from '../../http/answer.ts';
import { visibleOwner } from '../../http/auth.ts';
import { idempotentPost } from '../../http/idempotency.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../../http/page.ts';
import { Id } from '../../schemas/common.ts';
import { Account, AccountOrder, Adjustment, AdjustmentOrder, BooksProof, Entry } from '../../schemas/money/accounts.ts';

const textOf = (micros: bigint | null): string | null => (micros === null ? null : String(micros));

const show = (row: AccountRecord): z.input<typeof Account> => ({
  id: row.id,
  kind: row.kind,
  owner: row.ownerId,
  holder: row.holder,
  name: row.name,
  currency: row.currency,
  balanceMicros: String(row.balanceMicros),
  lowerLimitMicros: textOf(row.lowerLimitMicros),
  createdAt: row.createdAt.toISOString(),
  closedAt: row.closedAt?.toISOString() ?? null,
});

const showEntry = (row: EntryRecord): z.input<typeof Entry> => ({
  sequence: String(row.seq),
  transfer: row.transferId,
  kind: row.kind,
  reason: row.reason,
  subject: row.subject,
  amountMicros: String(row.amountMicros),
  balanceMicros: textOf(row.balanceMicros),
  at: row.createdAt.toISOString(),
});

const showAdjustment = (row: AdjustmentRecord): z.input<typeof Adjustment> => ({
  account: row.account.id,
  transfer: row.transferId,
  currency: row.account.currency,
  amountMicros: String(row.amountMicros),
  balanceMicros: textOf(row.balanceMicros),
  reason: row.reason,
  at: row.createdAt.toISOString(),
});

/** A place among entries: bigint's largest is the last. */
const EntriesQuery = PageQuery.extend({
  cursor: z
    .string()
    .regex(/^[1-9]\d{0,18}$/, { error: 'expected the `next` of the page before', abort: true })
    .refine((text) => BigInt(text) < 2n ** 63n, { error: 'expected the `next` of the page before' })
    .optional()
    .meta({ description: 'The `next` of the page before' }),
});

export function accountRoutes({ ledger, log, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/accounts',
      id: 'listAccounts',
      tag: 'accounts',
      summary: 'List accounts, newest first, with their balances',
      description: "A client's own and its holds; operators see all.",
      access: 'client',
      query: PageQuery.extend({
        kind: z.enum(accountKinds).optional().meta({ description: 'Only accounts of this kind' }),
        owner: z.string().max(64).optional().meta({ description: 'Only accounts of this owner; operators may name any' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Account) } },
      problems: [],
      handle: async ({ caller, query: { kind, owner, ...query } }) => {
        const filter = { owner: visibleOwner(caller) ?? owner ?? null, kind };
        return json(200, await readPage('accounts', query, (page) => readAccounts(ledger, filter, page), show));
      },
    }),
    operation({
      method: 'post',
      path: '/v1/accounts',
      id: 'openAccount',
      tag: 'accounts',
      summary: "Open an owner's account of a currency",
      access: 'operator',
      body: AccountOrder,
      answers: { 201: { description: 'Opened', schema: Account } },
      problems: ['conflict', 'not-found'],
      handle: async ({ caller, body, idempotencyKey }) => {
        const request = idempotentPost(caller, idempotencyKey, '/v1/accounts', body);
        const { owner, currency } = body;
        const order = { owner, currency, lowerLimitMicros: BigInt(body.lowerLimitMicros), nowMs: clock() };
        const { answer, replayed } = await acceptAccountOnce(ledger, request, order, (row) => json(201, show(row)));
        log.info({ ...body, keyId: caller.keyId, replayed }, 'account opened by an operator');
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/accounts/{id}/entries',
      id: 'listEntries',
      tag: 'accounts',
      summary: "List an account's entries, newest first",
      access: 'client',
      params: Id,
      query: EntriesQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Entry) } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id }, query: { limit, cursor } }) => {
        const account = await findAccount(ledger, visibleOwner(caller), id);
        const before = cursor === undefined ? null : BigInt(cursor);
        const rows = await readEntries(ledger, account.id, { limit, before });
        const shown = rows.slice(0, limit);
        const next = rows.length > limit ? String(shown.at(-1)!.seq) : null;
        return json(200, { items: shown.map(showEntry), next });
      },
    }),
    operation({
      method: 'post',
      path: '/v1/accounts/{id}/adjustments',
      id: 'adjustAccount',
      tag: 'accounts',
      summary: 'Add to an account, or take from it, by hand',
      description:
        'Against the site’s account `adjustments`. It needs an Idempotency-Key, which names the adjustment for good: repeated after any time, it is not posted again.',
      access: 'operator',
      params: Id,
      body: AdjustmentOrder,
      answers: { 201: { description: 'Posted', schema: Adjustment } },
      problems: ['not-found', 'conflict', 'insufficient-funds', 'amount-out-of-bounds'],
      handle: async ({ caller, params: { id }, body, idempotencyKey }) => {
        if (idempotencyKey === null)
          throw new BerthError('bad-request', 'An adjustment needs an Idempotency-Key', {
            fields: [{ pointer: 'header.Idempotency-Key', detail: 'found none; expected 1 to 255 visible ASCII characters' }],
          });
        const path = `/v1/accounts/${id}/adjustments`;
        const request = { ...idempotentPost(caller, idempotencyKey, path, body), key: idempotencyKey };
        const { reason } = body;
        const order = { account: id, amountMicros: BigInt(body.amountMicros), reason, keyId: caller.keyId, nowMs: clock() };
        const { answer, replayed } = await acceptAdjustmentOnce(ledger, request, order, (row) => json(201, showAdjustment(row)));
        log.warn({ account: id, ...body, keyId: caller.keyId, replayed }, 'account adjusted by an operator');
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/books',
      id: 'verifyBooks',
      tag: 'accounts',
      summary: 'Verify the books now',
      description: 'Reads all entries in one snapshot, and says what breaks a rule of docs/books.md, by its id.',
      access: 'operator',
      answers: { 200: { description: 'What was found', schema: BooksProof } },
      problems: [],
      handle: async () => {
        const { at, ...proof } = await readBooksProof(ledger, clock());
        return json(200, { ...proof, at: at.toISOString() });
      },
    }),
  ];
}
