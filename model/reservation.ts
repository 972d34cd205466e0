import type { HostId, Id } from './ids.ts';

export type ReservationId = Id<'reservation'>;

/**
 * States of a reservation of whole hosts: held for it (`scheduled`), being emptied, handed over (`active`), and its
 * ends. The ledger enforces the same table.
 */
export const reservationTransitions = {
  scheduled: ['vacating', 'failed', 'cancelled'],
  vacating: ['active', 'failed', 'cancelled'],
  active: ['ended', 'cancelled'],
  ended: [],
  failed: [],
  cancelled: [],
} as const satisfies Record<string, readonly string[]>;

export type ReservationState = keyof typeof reservationTransitions;
export const reservationStates = Object.keys(reservationTransitions) as [ReservationState, ...ReservationState[]];
export const isReservationOver = (state: ReservationState): boolean => reservationTransitions[state].length === 0;

/** A drain as its reservation knows it. */
export interface HostDrain {
  drain: Id<'drain'>;
  host: HostId;
  number: number;
}
