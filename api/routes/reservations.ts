import { z } from 'zod';
import type { ReservationRequest } from '../../ledger/reservations/accept-reservation.ts';
import { findReservation, type ReservationRecord, readReservations } from '../../ledger/reservations/read-reservations.ts';
import { acceptReservationOnce, changeReservationCancelRequested } from '../../ledger/reservations/request-reservation.ts';
import { isReservationOver, type ReservationId, reservationStates } from '../../model/reservation.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { bestEffort } from '../http/best-effort.ts';
import { refuseBeyondHorizon } from '../http/horizon.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { Id } from '../schemas/common.ts';
import { Reservation, ReservationOrder } from '../schemas/reservations.ts';

function show(row: ReservationRecord): z.input<typeof Reservation> {
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
  return [
    operation({
      method: 'post',
      path: '/v1/reservations',
      id: 'createReservation',
      tag: 'reservations',
      summary: 'Reserve whole hosts for a time',
      description:
        'The hosts are held, drained just in time, handed over with berth.reservation.started, and take work again at the end.',
      access: 'operator',
      body: ReservationOrder,
      answers: { 202: { description: 'Accepted', schema: Reservation, headers: { Location: 'The reservation' } } },
      problems: ['not-found', 'drain-impossible'],
      handle: async ({ caller, body, idempotencyKey }) => {
        refuseBeyondHorizon(clock(), { '/startAt': body.startAt });
        const { hosts, nodes, durationS, purpose, returnVms } = body;
        const startAtMs = Date.parse(body.startAt);
        const reservation: ReservationRequest = {
          wanted: hosts === undefined ? { nodes: nodes ?? 1 } : { hosts },
          startAtMs,
          endAtMs: startAtMs + durationS * 1000,
          purpose,
          returnVms,
          owner: caller.ownerId,
          nowMs: clock(),
        };
        const request = idempotentPost(caller, idempotencyKey, '/v1/reservations', body);
        const { answer, id, replayed } = await acceptReservationOnce(ledger, request, reservation, (row) =>
          json(202, show(row), `/v1/reservations/${row.id}`),
        );
        log.info({ reservationId: id, keyId: caller.keyId, replayed }, 'reservation accepted');
        // Also on a repeated request: the first one may have crashed before this.
        await bestEffort(log, { reservationId: id }, () => temporal.startReservation(id as ReservationId));
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
        state: z.enum(reservationStates).optional().meta({ description: 'Only reservations in this state' }),
      }),
      answers: { 200: { description: 'A page', schema: pageOf(Reservation) } },
      problems: [],
      handle: async ({ query }) =>
        json(200, await readPage('reservations', query, (page) => readReservations(ledger, { state: query.state }, page), show)),
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
      handle: async ({ params: { id } }) => json(200, show(await findReservation(ledger, id))),
    }),
    operation({
      method: 'delete',
      path: '/v1/reservations/{id}',
      id: 'endReservation',
      tag: 'reservations',
      summary: 'Cancel a reservation, or end it early',
      access: 'operator',
      params: Id,
      answers: {
        200: { description: 'It was over already', schema: Reservation },
        202: { description: 'Its hosts will take work again', schema: Reservation },
      },
      problems: ['not-found'],
      handle: async ({ params: { id }, caller }) => {
        const row = await findReservation(ledger, id);
        if (isReservationOver(row.state)) return json(200, show(row));
        await changeReservationCancelRequested(ledger, id, clock());
        log.info({ reservationId: id, keyId: caller.keyId }, 'reservation cancelled by an operator');
        await bestEffort(log, { reservationId: id }, () => temporal.notifyReservation(id as ReservationId));
        return json(202, show(await findReservation(ledger, id)));
      },
    }),
  ];
}
