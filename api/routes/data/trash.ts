import { z } from 'zod';
import {
  acceptExpiryRuleOnce,
  changeExpiryRuleRemoved,
  type ExpiryRuleRecord,
  readExpiryRules,
} from '../../../ledger/tree/expiry.ts';
import { changeDeletionPurged, readDeletions } from '../../../ledger/tree/trash.ts';
import type { ApiDeps } from '../../deps.ts';
import { json, noContent } from '../../http/answer.ts';
import { idempotentPost } from '../../http/idempotency.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../../http/page.ts';
import { Id } from '../../schemas/common.ts';
import { Deletion, Entry, ExpiryRule, ExpiryRuleOrder, RestoreOrder, TreePath } from '../../schemas/data/tree.ts';
import { showDeletion } from '../../tree/show-entry.ts';
import { actOnTree } from './tree.ts';

const TrashQuery = z.strictObject({
  ...PageQuery.shape,
  path: TreePath.optional().meta({ description: 'What was at this path: its earlier versions' }),
});

const showRule = ({ id, prefix, afterS, createdAt }: ExpiryRuleRecord): z.input<typeof ExpiryRule> => ({
  id,
  prefix,
  afterS,
  createdAt: createdAt.toISOString(),
});

/** What was deleted, and what is to be. */
export function trashRoutes(deps: ApiDeps): Operation[] {
  const { ledger, repository, clock } = deps;
  return [
    operation({
      method: 'get',
      path: '/v1/trash',
      id: 'listTrash',
      tag: 'tree',
      summary: 'List what was deleted, replaced or has expired, newest first',
      access: 'client',
      query: TrashQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Deletion) } },
      problems: [],
      handle: async ({ caller: { ownerId }, query: { path, ...page } }) =>
        json(200, await readPage('trash', page, (at) => readDeletions(ledger, ownerId, path, at), showDeletion)),
    }),
    operation({
      method: 'post',
      path: '/v1/trash/{id}/restore',
      id: 'restoreDeletion',
      tag: 'tree',
      summary: 'Put back what was deleted',
      access: 'client',
      params: Id,
      body: RestoreOrder,
      answers: { 201: { description: 'What is there again', schema: Entry, headers: { Location: 'The entry' } } },
      problems: ['not-found', 'conflict', 'quota-exceeded'],
      handle: ({ caller, idempotencyKey: key, params: { id }, body: { to = null, replace } }) =>
        actOnTree(deps, caller, {
          key,
          route: `/v1/trash/${id}/restore`,
          action: { action: 'restore', deletion: id, to, replace },
        }),
    }),
    operation({
      method: 'delete',
      path: '/v1/trash/{id}',
      id: 'purgeDeletion',
      tag: 'tree',
      summary: 'Delete for good what is in the trash',
      access: 'client',
      params: Id,
      answers: { 204: { description: 'Gone for good' } },
      problems: ['not-found'],
      handle: async ({ caller: { ownerId }, params: { id } }) => {
        await repository.removeContents(await changeDeletionPurged(ledger, ownerId, id, clock()));
        return noContent;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/expiry-rules',
      id: 'listExpiryRules',
      tag: 'tree',
      summary: 'List the rules by which files are deleted when they are old, newest first',
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(ExpiryRule) } },
      problems: [],
      handle: async ({ caller: { ownerId }, query }) =>
        json(200, await readPage('expiry-rules', query, (page) => readExpiryRules(ledger, ownerId, page), showRule)),
    }),
    operation({
      method: 'post',
      path: '/v1/expiry-rules',
      id: 'addExpiryRule',
      tag: 'tree',
      summary: 'Delete files below a prefix when they are that old; of a prefix that has a rule, change it',
      access: 'client',
      body: ExpiryRuleOrder,
      answers: { 201: { description: 'The rule', schema: ExpiryRule } },
      problems: ['conflict'],
      handle: async ({ caller, idempotencyKey: key, body }) => {
        const request = idempotentPost(caller, key, '/v1/expiry-rules', body);
        const order = { owner: caller.ownerId, ...body };
        return (await acceptExpiryRuleOnce(ledger, request, order, (rule) => json(201, showRule(rule)))).answer;
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/expiry-rules/{id}',
      id: 'deleteExpiryRule',
      tag: 'tree',
      summary: 'Delete a rule; what it has deleted stays in the trash',
      access: 'client',
      params: Id,
      answers: { 204: { description: 'Deleted' } },
      problems: ['not-found'],
      handle: async ({ caller: { ownerId }, params: { id } }) => {
        await changeExpiryRuleRemoved(ledger, ownerId, id);
        return noContent;
      },
    }),
  ];
}
