import { z } from 'zod';
import { balancerModes, balanceStates } from '../../../model/load/balancer.ts';
import { loadLimits } from '../../../model/load/load.ts';
import { stressKinds } from '../../../model/load/watch-verdict.ts';
import { PageQuery } from '../../http/page.ts';
import { time } from '../common.ts';

const heartbeatS = z
  .int()
  .min(loadLimits.heartbeatS.least)
  .max(loadLimits.heartbeatS.most)
  .meta({ description: "Seconds between the samples of a host's load, unless the host has its own" });

const mode = z
  .enum(balancerModes)
  .meta({ description: '`advise`: decisions are made and shown, and nothing moves; `auto`: VMs move' });

export const Balancer = z.strictObject({ mode, heartbeatS }).meta({ id: 'Balancer' });

export const BalancerChange = z
  .strictObject({ mode: mode.optional(), heartbeatS: heartbeatS.optional() })
  .refine((change) => Object.keys(change).length > 0, { error: 'expected at least one field' })
  .meta({ id: 'BalancerChange', minProperties: 1 });

const cpuS = z.number().meta({ description: 'Processor-seconds' });

const Offer = z
  .strictObject({
    vm: z.string(),
    from: z.string(),
    to: z.string(),
    gain: z.strictObject({ duringStressCpuS: cpuS, laterCpuS: cpuS }),
    cost: z.strictObject({ seconds: z.number(), downtimeS: z.number(), sentMiB: z.number(), converges: z.boolean(), cpuS }),
    unmet: z.number().meta({ description: "Preferred rules that the target does not meet, less those that the source doesn't" }),
    netCpuS: cpuS.meta({ description: 'The gain, less the cost and the unmet rules' }),
    worthwhile: z.boolean(),
    staysS: z.number().meta({ description: 'For how long the effect was counted' }),
    useAfter: z.strictObject({ from: z.number(), to: z.number() }),
  })
  .meta({ id: 'MoveOffer', description: 'A host’s offer to take a VM, with what is predicted of the move' });

const counts = z.record(z.string(), z.int());

/** What a decision was made of. */
const explained = {
  host: z.string(),
  seen: z.strictObject({
    kind: z.enum(stressKinds).nullable(),
    confidence: z.number().meta({ description: 'How likely the stress lasts as long again' }),
    expectedS: z.number().meta({ description: 'How much longer it is expected to last' }),
    points: z.number(),
    spikeS: z.number().meta({ description: 'The points above which help is asked for' }),
    useLimit: z.number(),
    stressedS: z.number(),
    use: z.number(),
    steal: z.number(),
  }),
  considered: z.array(Offer).meta({ description: 'The best offers' }),
  stayed: counts.meta({ description: 'VMs that were not considered, by reason' }),
  refused: counts.meta({ description: 'Refusals of hosts, by reason' }),
  outcome: z.enum(['move', 'stay']),
  why: z.string().nullable().meta({ description: 'Why no VM leaves; null: some do' }),
  chosen: z.array(Offer),
};

export const Decision = z
  .strictObject({
    id: z.string(),
    at: time,
    mode: z.enum(balancerModes),
    state: z.enum(balanceStates),
    ...explained,
    moves: z.array(
      z.strictObject({
        vm: z.string(),
        to: z.string(),
        migration: z.string(),
        predictedCpus: z.number().meta({ description: 'Processors that are starved no more while the stress lasts' }),
        achievedCpus: z.number().nullable().meta({ description: 'The same as measured after the move; null: not measured' }),
      }),
    ),
    problem: z.string().nullable(),
    endedAt: time.nullable(),
  })
  .meta({
    id: 'BalanceDecision',
    description: 'The answer to a host that asked for help, also "no", with all that it was made of',
  });

export const DecisionQuery = PageQuery.extend({ host: z.string().max(63).optional() });

const Packed = z.strictObject({
  host: z.string(),
  vms: z.int(),
  gainCpuS: cpuS.meta({ description: 'What the host is worth while it is off' }),
  costCpuS: cpuS.meta({ description: 'Of all moves' }),
  moves: z.array(Offer),
  why: z.string().nullable().meta({ description: 'Why it is not emptied; null: it can be' }),
  keptBy: z
    .strictObject({ vm: z.string(), why: z.string().nullable(), refused: counts })
    .nullable()
    .meta({ description: 'The VM that keeps it: why it stays, or the refusals of hosts by reason' }),
});

export const PlanOrder = z
  .strictObject({
    stressS: z.number().min(1).max(86_400).default(600).meta({ description: 'How long the overload of hosts is taken to last' }),
    aim: z.enum(['spread', 'pack']).default('spread').meta({
      description: '`spread`: what would help overloaded hosts; `pack`: which hosts could be emptied and switched off',
    }),
  })
  .meta({ id: 'BalancePlanOrder' });

export const BalancePlan = z
  .strictObject({
    at: time,
    decisions: z.array(z.strictObject(explained)).meta({ description: 'Of the aim `spread`' }),
    emptied: z.array(Packed).meta({ description: 'Of the aim `pack`: hosts with few VMs, and whether they could be emptied' }),
  })
  .meta({ id: 'BalancePlan', description: 'What would be decided of all hosts that are overloaded now; nothing is done' });
