import { z } from 'zod';
import { acceptEdgeReport } from '../../ledger/edges/accept-edge-report.ts';
import { changeEdgeRemoved, type EdgeRecord, readEdges } from '../../ledger/edges/read-edges.ts';
import type { ApiDeps } from '../deps.ts';
import { json, noContent } from '../http/answer.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { Id } from '../schemas/common.ts';
import { Edge, EdgeAnswer, EdgeReport } from '../schemas/ports.ts';

const show = ({ id, address, state, active, problem, seenAt, createdAt }: EdgeRecord): z.input<typeof Edge> => ({
  id,
  address,
  state,
  active,
  problem,
  seenAt: seenAt.toISOString(),
  createdAt: createdAt.toISOString(),
});

export function edgeRoutes({ ledger, clock, log }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'delete',
      path: '/v1/edges/{id}',
      id: 'removeEdge',
      tag: 'edges',
      summary: 'Remove an edge that does not return',
      description: 'One that was not heard for five seconds. When it asks again, it is there again.',
      access: 'operator',
      params: Id,
      answers: { 204: { description: 'Removed' } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { id } }) => {
        await changeEdgeRemoved(ledger, id, clock());
        log.info({ edgeId: id, keyId: caller.keyId }, 'edge removed by an operator');
        return noContent;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/edges',
      id: 'listEdges',
      tag: 'edges',
      summary: 'List edges, newest first',
      access: 'operator',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Edge) } },
      problems: [],
      handle: async ({ query }) => json(200, await readPage('edges', query, (page) => readEdges(ledger, page, clock()), show)),
    }),
  ];
}

/** A report has a line for each published port of the site. */
const maxReportBytes = 8 * 2 ** 20;

/** The route by which edges ask for what they have to let through. */
export function edgeExchangeRoutes({ ledger, config, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'post',
      path: '/internal/edges/{edgeId}/orders',
      id: 'exchangeEdgeOrders',
      tag: 'internal',
      summary: 'What an edge has, against what it is to have; with its own key. Renews its lease of the public addresses',
      access: 'edge',
      params: z.strictObject({
        edgeId: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, { error: 'expected a DNS label' }),
      }),
      body: EdgeReport,
      maxBodyBytes: maxReportBytes,
      answers: { 200: { description: 'Its orders', schema: EdgeAnswer } },
      problems: ['conflict'],
      handle: async ({ params: { edgeId: edge }, body: report }) => {
        const publicAddresses = config.api.BERTH_PUBLIC_ADDRESSES;
        return json(200, await acceptEdgeReport(ledger, { edge, report, publicAddresses, nowMs: clock() }));
      },
    }),
  ];
}
