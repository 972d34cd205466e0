import { z } from 'zod';
import { acceptKeyOnce, changeKeyRevoked, type KeyRecord, readKeys } from '../../ledger/owners/keys.ts';
import { newApiKey } from '../../model/api-key.ts';
import { BerthError } from '../../model/errors.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { Id } from '../schemas/common.ts';
import { Key, KeyOrder, NewKey } from '../schemas/owners.ts';

const show = (row: KeyRecord): z.input<typeof Key> => ({
  id: row.id,
  owner: row.ownerId,
  name: row.name,
  role: row.role,
  createdAt: row.createdAt.toISOString(),
  expiresAt: row.expiresAt?.toISOString() ?? null,
  revokedAt: row.revokedAt?.toISOString() ?? null,
});

export function keyRoutes({ ledger, log, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/keys',
      id: 'listKeys',
      tag: 'keys',
      summary: 'List API keys, newest first: what they are for, never the keys',
      access: 'client',
      query: PageQuery.extend({
        owner: z.string().max(64).optional().meta({ description: 'Only keys of this owner; operators may name any' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Key) } },
      problems: [],
      handle: async ({ caller, query: { owner, ...query } }) => {
        const whose = visibleOwner(caller) ?? owner ?? null;
        return json(200, await readPage('keys', query, (page) => readKeys(ledger, whose, page), show));
      },
    }),
    operation({
      method: 'post',
      path: '/v1/keys',
      id: 'createKey',
      tag: 'keys',
      summary: 'Make an API key',
      description: 'The answer has the key, once: the site keeps its hash alone, and a repeated request is answered without it.',
      access: 'client',
      body: KeyOrder,
      answers: { 201: { description: 'Made', schema: NewKey } },
      problems: ['forbidden', 'not-found', 'quota-exceeded'],
      handle: async ({ caller, body, idempotencyKey }) => {
        const { name, role, owner = caller.ownerId } = body;
        if (caller.role !== 'operator' && (role === 'operator' || owner !== caller.ownerId))
          throw new BerthError('forbidden', "Keys with the operator role, and another owner's, are made by operators");
        const expiresAt = body.expiresAt === undefined ? null : new Date(body.expiresAt);
        if (expiresAt !== null && !(expiresAt.getTime() > clock() && expiresAt.getUTCFullYear() < 10_000))
          throw new BerthError('bad-request', 'The key would have expired already', {
            fields: [{ pointer: '/expiresAt', detail: `found ${body.expiresAt}; expected a time from now to the year 9999` }],
          });
        const key = newApiKey();
        const request = idempotentPost(caller, idempotencyKey, '/v1/keys', body);
        const order = { owner, name, role, expiresAt, key, nowMs: clock() };
        // What is remembered for the Idempotency-Key is kept for a day, and must not have the key.
        const { answer, replayed } = await acceptKeyOnce(ledger, request, order, (row) => json(201, { ...show(row), key: null }));
        const made = NewKey.parse(JSON.parse(answer.text ?? ''));
        log.info({ madeKey: made.id, owner, role, keyId: caller.keyId, replayed }, 'API key made');
        return replayed ? answer : json(201, { ...made, key });
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/keys/{id}',
      id: 'revokeKey',
      tag: 'keys',
      summary: 'Revoke an API key',
      description:
        'Every API process refuses it within two seconds, and ends what it has open: followed logs, uploads, downloads. It cannot be undone.',
      access: 'client',
      params: Id,
      answers: { 200: { description: 'Revoked', schema: Key } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { id } }) => {
        const row = await changeKeyRevoked(ledger, visibleOwner(caller), id, clock());
        log.info({ revokedKey: id, owner: row.ownerId, keyId: caller.keyId }, 'API key revoked');
        return json(200, show(row));
      },
    }),
  ];
}
