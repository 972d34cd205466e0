import type { z } from 'zod';
import { findKey } from '../../ledger/owners/keys.ts';
import { acceptOwnerOnce, changeOwnerQuotas, findOwner, type OwnerRecord, readOwners } from '../../ledger/owners/owners.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { Id } from '../schemas/common.ts';
import { Me, Owner, OwnerChange, OwnerOrder } from '../schemas/owners.ts';

const show = ({ id, name, quotas, createdAt }: OwnerRecord): z.input<typeof Owner> => ({
  id,
  name,
  quotas,
  createdAt: createdAt.toISOString(),
});

export function ownerRoutes({ ledger, config, log, clock }: ApiDeps): Operation[] {
  const site = () => ({ limits: siteQuotas(config.api), nowMs: clock() });

  return [
    operation({
      method: 'get',
      path: '/v1/me',
      id: 'getMe',
      tag: 'owners',
      summary: 'Who the caller is, and what its owner may have and has',
      access: 'client',
      answers: { 200: { description: 'The caller', schema: Me } },
      problems: [],
      handle: async ({ caller }) => {
        const [owner, key] = await Promise.all([
          findOwner(ledger, caller.ownerId, site()),
          findKey(ledger, caller.ownerId, caller.keyId),
        ]);
        const body: z.input<typeof Me> = {
          owner: { id: owner.id, name: owner.name },
          key: {
            id: key.id,
            name: key.name,
            role: key.role,
            createdAt: key.createdAt.toISOString(),
            expiresAt: key.expiresAt?.toISOString() ?? null,
          },
          quotas: owner.quotas,
        };
        return json(200, body);
      },
    }),
    operation({
      method: 'get',
      path: '/v1/owners',
      id: 'listOwners',
      tag: 'owners',
      summary: 'List owners, newest first, with their quotas',
      access: 'operator',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Owner) } },
      problems: [],
      handle: async ({ query }) => json(200, await readPage('owners', query, (page) => readOwners(ledger, page, site()), show)),
    }),
    operation({
      method: 'post',
      path: '/v1/owners',
      id: 'createOwner',
      tag: 'owners',
      summary: 'Make an owner',
      description: 'Its first key is made by `POST /v1/keys` with its id.',
      access: 'operator',
      body: OwnerOrder,
      answers: { 201: { description: 'Made', schema: Owner, headers: { Location: 'The owner' } } },
      problems: ['conflict'],
      handle: async ({ caller, body, idempotencyKey }) => {
        const request = idempotentPost(caller, idempotencyKey, '/v1/owners', body);
        const { answer, id, replayed } = await acceptOwnerOnce(ledger, request, { ...body, site: site() }, (row) =>
          json(201, show(row), `/v1/owners/${row.id}`),
        );
        log.info({ owner: id, keyId: caller.keyId, replayed }, 'owner made by an operator');
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/owners/{id}',
      id: 'getOwner',
      tag: 'owners',
      summary: 'Describe an owner: its quotas, and what counts against them',
      access: 'operator',
      params: Id,
      answers: { 200: { description: 'The owner', schema: Owner } },
      problems: ['not-found'],
      handle: async ({ params: { id } }) => json(200, show(await findOwner(ledger, id, site()))),
    }),
    operation({
      method: 'patch',
      path: '/v1/owners/{id}',
      id: 'changeOwner',
      tag: 'owners',
      summary: "Change an owner's quotas",
      description: 'What the owner has beyond a quota stays; nothing is added until it is within it again.',
      access: 'operator',
      params: Id,
      body: OwnerChange,
      answers: { 200: { description: 'The owner after the change', schema: Owner } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id }, body }) => {
        const owner = await changeOwnerQuotas(ledger, id, body.quotas, site());
        log.info({ owner: id, keyId: caller.keyId, quotas: body.quotas }, 'quotas changed by an operator');
        return json(200, show(owner));
      },
    }),
  ];
}
