import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { acceptReservation, type ReservationRequest } from './accept-reservation.ts';
import { findReservation, type ReservationRecord } from './read-reservations.ts';

/** Accepts a reservation once for each idempotency key. Throws what acceptReservation throws. */
export async function acceptReservationOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  reservation: ReservationRequest,
  answer: (reservation: ReservationRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => answer(await findReservation(tx, await acceptReservation(tx, reservation))));
}

/** Notes that a reservation's cancellation was requested; a repeat keeps the first time. */
export async function changeReservationCancelRequested(ledger: Ledger, id: string, nowMs: number): Promise<void> {
  await ledger.hostReservation.updateMany({
    where: { id, cancelRequestedAt: null },
    data: { cancelRequestedAt: new Date(nowMs) },
  });
}
