import { z } from 'zod';
import { balancerModes } from './balancer.ts';
import { stressKinds } from './watch-verdict.ts';

/** What operators hear of hosts that ask for help. */
export const balancerEventTypes = {
  /** VMs leave the host. */
  moving: 'berth.host.relieved',
  /** VMs would leave it, if the balancer were not to advise alone. */
  advised: 'berth.host.reliefAdvised',
  /** No move is worth its cost, or may be made. */
  stayed: 'berth.host.overloaded',
  /** Overloaded, and no help was found. */
  noHelp: 'berth.host.noHelp',
} as const;

export const BalancerData = z
  .strictObject({
    decision: z.string(),
    host: z.string(),
    mode: z.enum(balancerModes),
    kind: z.enum(stressKinds).nullable(),
    use: z.number(),
    steal: z.number(),
    stressedS: z.number(),
    /** Why no VM leaves; null: some do. */
    why: z.string().nullable(),
    moves: z.array(z.strictObject({ vm: z.string(), to: z.string(), migration: z.string().nullable() })),
    at: z.iso.datetime(),
  })
  .meta({
    id: 'HostOverloaded',
    description: 'A host asked for help, and what came of it: GET /v1/balancer/decisions has the rest',
  });
