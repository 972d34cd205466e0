import { z } from 'zod';
import { reservationStates } from '../../model/reservation.ts';
import { remainingItem, time, timeWithOffset } from './common.ts';

export const ReservationOrder = z
  .strictObject({
    nodes: z
      .int()
      .min(1)
      .max(1000)
      .optional()
      .meta({ description: 'How many hosts; those that are cheapest to drain are chosen' }),
    hosts: z.array(z.string().min(1).max(63)).min(1).max(1000).optional().meta({ description: 'These hosts' }),
    startAt: timeWithOffset,
    durationS: z
      .int()
      .min(1)
      .max(366 * 86_400),
    purpose: z.string().min(1).max(200),
    returnVms: z.boolean().default(false).meta({ description: 'At the end, return the VMs that had to leave' }),
  })
  .refine(({ nodes, hosts }) => (nodes === undefined) !== (hosts === undefined), {
    error: 'expected either nodes or hosts',
    path: ['nodes'],
  })
  .refine(({ hosts = [] }) => new Set(hosts).size === hosts.length, { error: 'expected each host once', path: ['hosts'] })
  .meta({ id: 'ReservationOrder' });

export const Reservation = z
  .strictObject({
    id: z.string(),
    state: z.enum(reservationStates).meta({ description: 'active: the hosts are empty and handed over' }),
    hosts: z.array(z.string()),
    startAt: time,
    endAt: time,
    durationS: z.int(),
    purpose: z.string(),
    returnVms: z.boolean(),
    workflowId: z.string(),
    drains: z.array(z.string()).meta({ description: 'The drains of its hosts, once they have begun' }),
    problem: z.array(remainingItem).meta({ description: 'Why it failed' }),
    createdAt: time,
    cancelRequestedAt: time.nullable(),
    finishedAt: time.nullable(),
  })
  .meta({ id: 'Reservation' });
