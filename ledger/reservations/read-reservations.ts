import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { ReservationState } from '../../model/reservation.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';

const withHolds = { holds: { orderBy: { hostId: 'asc' } } } as const;

/** A reservation and its holds, by host. */
export type ReservationRecord = Prisma.HostReservationGetPayload<{ include: typeof withHolds }>;

/** Throws not-found. */
export async function findReservation(tx: Transaction, id: string): Promise<ReservationRecord> {
  const row = await tx.hostReservation.findUnique({ where: { id }, include: withHolds });
  if (row === null) throw new BerthError('not-found', `There is no reservation ${id}`);
  return row;
}

export async function readReservations(
  ledger: Ledger,
  filter: { state?: ReservationState | undefined },
  page: PageRequest,
): Promise<ReservationRecord[]> {
  return ledger.hostReservation.findMany({ ...pageQuery(page, { state: filter.state }), include: withHolds });
}
