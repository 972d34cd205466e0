import { readBalancePlan, readPackPlan } from '../../../ledger/balance/plan.ts';
import { type DecisionRecord, findDecision, readDecisions } from '../../../ledger/balance/read-decisions.ts';
import { changeBalancer, readBalancer } from '../../../ledger/load/balancer.ts';
import type { BalanceDecision } from '../../../scheduler/balance/decision.ts';
import type { ApiDeps } from '../../deps.ts';
import { json } from '../../http/answer.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { pageOf, readPage } from '../../http/page.ts';
import { Id, iso } from '../../schemas/common.ts';
import { BalancePlan, Balancer, BalancerChange, Decision, DecisionQuery, PlanOrder } from '../../schemas/load/balancer.ts';

const explain = ({ host, seen, considered, stayed, refused, outcome }: BalanceDecision) => ({
  host,
  seen: { kind: seen.kind, confidence: seen.confidence, expectedS: seen.expectedS, ...seen.seen },
  considered,
  stayed,
  refused,
  outcome: outcome.kind,
  why: outcome.kind === 'stay' ? outcome.why : null,
  chosen: outcome.kind === 'move' ? outcome.moves : [],
});

function show(row: DecisionRecord) {
  return {
    id: row.id,
    at: row.createdAt.toISOString(),
    mode: row.mode,
    state: row.state,
    ...explain(row.decision as unknown as BalanceDecision),
    moves: row.moves.map(({ vmId, toId, migrationId, predictedCpus, achievedCpus }) => ({
      vm: vmId,
      to: toId,
      migration: migrationId,
      predictedCpus,
      achievedCpus,
    })),
    problem: row.problem,
    endedAt: iso(row.endedAt),
  };
}

/** What the site does about its load. */
export function balancerRoutes({ ledger, log, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/balancer',
      id: 'getBalancer',
      tag: 'load',
      summary: 'What the site does about its load',
      access: 'operator',
      answers: { 200: { description: 'The settings', schema: Balancer } },
      problems: [],
      handle: async () => json(200, await readBalancer(ledger)),
    }),
    operation({
      method: 'patch',
      path: '/v1/balancer',
      id: 'changeBalancer',
      tag: 'load',
      summary: 'Change what the site does about its load',
      description: 'Hosts follow within ten seconds.',
      access: 'operator',
      body: BalancerChange,
      answers: { 200: { description: 'The settings after the change', schema: Balancer } },
      problems: [],
      handle: async ({ body, caller }) => {
        const settings = await changeBalancer(ledger, body);
        log.info({ keyId: caller.keyId, ...body }, 'the balancer was changed by an operator');
        return json(200, settings);
      },
    }),
    operation({
      method: 'get',
      path: '/v1/balancer/decisions',
      id: 'listDecisions',
      tag: 'load',
      summary: 'Decisions about hosts that asked for help, newest first',
      access: 'operator',
      query: DecisionQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Decision) } },
      problems: [],
      handle: async ({ query: { host, ...page } }) =>
        json(200, await readPage('decisions', page, (request) => readDecisions(ledger, host, request), show)),
    }),
    operation({
      method: 'get',
      path: '/v1/balancer/decisions/{id}',
      id: 'getDecision',
      tag: 'load',
      summary: 'A decision, and what came of it',
      access: 'operator',
      params: Id,
      answers: { 200: { description: 'The decision', schema: Decision } },
      problems: ['not-found'],
      handle: async ({ params: { id } }) => json(200, show(await findDecision(ledger, id))),
    }),
    operation({
      method: 'post',
      path: '/v1/balancer/plan',
      id: 'planBalance',
      tag: 'load',
      summary: 'What would be decided of all hosts that are overloaded now, or of those that could be emptied',
      description:
        'By the same function that answers a host alone, over the whole site at once. Nothing moves, whatever the mode is.',
      access: 'operator',
      body: PlanOrder,
      plans: true,
      answers: { 200: { description: 'A decision for each of them', schema: BalancePlan } },
      problems: [],
      handle: async ({ body }) => {
        const nowMs = clock();
        const at = new Date(nowMs).toISOString();
        if (body.aim === 'pack') {
          const emptied = (await readPackPlan(ledger, nowMs)).map(({ atMs: _, ...decision }) => decision);
          return json(200, { at, decisions: [], emptied });
        }
        const decisions = await readBalancePlan(ledger, body.stressS, nowMs);
        return json(200, { at, decisions: decisions.map(explain), emptied: [] });
      },
    }),
  ];
}
