import { z } from 'zod';
import type { HostHold, HostReservation } from '../../generated/prisma/client.ts';
import { acceptReservation } from '../../ledger/reservations/accept-reservation.ts';
import { BerthError } from '../../model/errors.ts';
import { isReservationOver, type ReservationId, reservationStates } from '../../model/reservation.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { fingerprint, runOnce, type Transaction } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../http/page.ts';
import { Reservation, ReservationOrder } from '../schemas.ts';

const Id = z.strictObject({ id: z.string() });
const withHolds = { holds: { orderBy: { hostId: 'asc' } } } as const;

type Row = HostReservation & { holds: HostHold[] };

function show(row: Row): z.input<typeof Reservation> {
  return {
    id: row.id,
    state: row.state,
    hosts: row.holds.map(({ hostId }) => hostId),
    startAt: row.startAt.toISOString(),
    endAt: row.endAt.toISOString(),
    durationS: Math.round((row.endAt.getTime() - row.startAt.getTime()) / 1000),
    purpose: row.purpose,
    returnVms: row.bringBack,
    workflowId: workflowId.reservation(row.id as ReservationId),
    drains: row.holds.flatMap(({ drainId }) => drainId ?? []),
    problem: Reservation.shape.problem.parse(row.problem ?? []),
    createdAt: row.createdAt.toISOString(),
    cancelRequestedAt: row.cancelRequestedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

export function reservationRoutes({ ledger, temporal, log, clock }: ApiDeps): Operation[] {
  async function find(tx: Transaction, id: string): Promise<Row> {
    const row = await tx.hostReservation.findUnique({ where: { id }, include: withHolds });
    if (row === null) throw new BerthError('not-found', `There is no reservation ${id}`);
    return row;
  }

  async function accept(tx: Transaction, owner: string, order: z.output<typeof ReservationOrder>) {
    const { hosts, nodes, startAt, durationS, purpose, returnVms } = order;
    const startAtMs = Date.parse(startAt);
    const id = await acceptReservation(tx, {
      wanted: hosts === undefined ? { nodes: nodes ?? 1 } : { hosts },
      startAtMs,
      endAtMs: startAtMs + durationS * 1000,
      purpose,
      returnVms: returnVms,
      owner,
      nowMs: clock(),
    });
    return json(202, show(await find(tx, id)), `/v1/reservations/${id}`);
  }

  /** It is accepted whatever becomes of this: the housekeeping workflow starts what wasn't, and a saga looks by itself. */
  async function notify(id: string, act: 'startReservation' | 'notifyReservation'): Promise<void> {
    try {
      await temporal[act](id as ReservationId);
    } catch (error) {
      log.warn({ err: error, reservationId: id }, 'the reservation could not be told now; it will see for itself');
    }
  }

  return [
    operation({
      method: 'post',
      path: '/v1/reservations',
      id: 'createReservation',
      tag: 'reservations',
      summary: 'Reserve whole hosts for a time',
      description:
        'The hosts are held, emptied just in time, handed over with berth.reservation.started, and given back at the end.',
      access: 'operator',
      body: ReservationOrder,
      answers: { 202: { description: 'Accepted', schema: Reservation, headers: { Location: 'The reservation' } } },
      problems: ['not-found', 'drain-impossible'],
      handle: async ({ req, caller, body, idempotencyKey: key }) => {
        const path = '/v1/reservations';
        const claim = { ownerId: caller.ownerId, key, method: 'POST', path, fingerprint: fingerprint(JSON.stringify(req.body)) };
        const { answer, replayed } = await runOnce(ledger, claim, (tx) => accept(tx, caller.ownerId, body));
        const id = answer.location?.split('/').at(-1) ?? '';
        log.info({ reservationId: id, keyId: caller.keyId, replayed }, 'reservation accepted');
        // Also on a repeated request: the first one may have died before it came to this.
        await notify(id, 'startReservation');
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/reservations',
      id: 'listReservations',
      tag: 'reservations',
      summary: 'List reservations of hosts, newest first',
      access: 'operator',
      query: PageQuery.extend({
        state: z.enum(reservationStates).optional().meta({ description: 'Reservations in this state alone' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Reservation) } },
      problems: [],
      handle: async ({ query }) => {
        const { where, ...rest } = pageQuery('reservations', query);
        const state = query.state === undefined ? {} : { state: query.state };
        const rows = await ledger.hostReservation.findMany({ where: { AND: [state, where] }, ...rest, include: withHolds });
        return json(200, page('reservations', query.limit, rows, show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/reservations/{id}',
      id: 'getReservation',
      tag: 'reservations',
      summary: 'Describe a reservation of hosts',
      access: 'operator',
      params: Id,
      answers: { 200: { description: 'The reservation', schema: Reservation } },
      problems: ['not-found'],
      handle: async ({ params: { id } }) => json(200, show(await find(ledger, id))),
    }),
    operation({
      method: 'delete',
      path: '/v1/reservations/{id}',
      id: 'endReservation',
      tag: 'reservations',
      summary: 'Cancel a reservation, or give its hosts back before its end',
      access: 'operator',
      params: Id,
      answers: {
        200: { description: 'It was over already', schema: Reservation },
        202: { description: 'Its hosts are being given back', schema: Reservation },
      },
      problems: ['not-found'],
      handle: async ({ params: { id }, caller }) => {
        const row = await find(ledger, id);
        if (isReservationOver(row.state)) return json(200, show(row));
        await ledger.hostReservation.updateMany({
          where: { id, cancelRequestedAt: null },
          data: { cancelRequestedAt: new Date(clock()) },
        });
        log.info({ reservationId: id, keyId: caller.keyId }, 'reservation cancelled by an operator');
        await notify(id, 'notifyReservation');
        return json(202, show(await find(ledger, id)));
      },
    }),
  ];
}
