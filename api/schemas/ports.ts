import { z } from 'zod';
import { portProtocols } from '../../model/network/port-range.ts';
import { portStates } from '../../model/network/published-port.ts';
import { time } from './common.ts';

export const PublishedPort = z
  .strictObject({
    id: z.string(),
    owner: z.string(),
    vm: z.string(),
    task: z.string().nullable(),
    port: z.int().meta({ description: 'In the guest' }),
    protocol: z.enum(portProtocols),
    publicAddress: z.string(),
    publicPort: z.int(),
    allow: z.array(z.string()).meta({ description: 'CIDRs of the clients; none: everybody' }),
    state: z.enum(portStates).meta({
      description: '`active`: an edge leads there; `removing`: it is withdrawn, and ends once no edge leads there any more',
    }),
    waitsFor: z
      .enum(['vm', 'edge'])
      .nullable()
      .meta({ description: 'Why it is not active: its VM has no address, or the active edge has not confirmed it' }),
    publishedAt: time.nullable().meta({ description: 'When it was first active' }),
    createdAt: time,
  })
  .meta({ id: 'PublishedPort' });

export const Edge = z
  .strictObject({
    id: z.string(),
    address: z.string().meta({ description: "On the hosts' network" }),
    state: z.enum(['up', 'unknown']).meta({ description: 'Whether it was heard in the last five seconds' }),
    active: z.boolean().meta({ description: 'Whether it has the public addresses' }),
    problem: z.string().nullable().meta({ description: 'Why its last rules could not be applied; those of before stay' }),
    seenAt: time,
    createdAt: time,
  })
  .meta({ id: 'Edge' });

export const EdgeReport = z.strictObject({
  address: z.ipv4(),
  turn: z.int().min(0).nullable(),
  epoch: z.int().min(1).nullable(),
  version: z.string().max(64).nullable(),
  ports: z.record(z.string().max(64), z.string().max(64)).nullable(),
  problem: z.string().max(500).nullable(),
});

/** As contracts/edge.ts has it: of the site's own parts. */
export const EdgeAnswer = z.looseObject({
  turn: z.int(),
  epoch: z.int().nullable(),
  version: z.string(),
  wantsPorts: z.boolean(),
});
