import { Prisma } from '../../generated/prisma/client.ts';
import type { LeaseSpec } from '../../model/task.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import type { LeasePromise } from './plan/admission.ts';

interface AcceptedLease {
  id: string;
  owner: string;
  spec: LeaseSpec;
  at: string;
  promise: LeasePromise | null;
}

/** Inserts an accepted lease: with its promise, or without one, in the queue. */
export async function insertLease(tx: Transaction, lease: AcceptedLease): Promise<void> {
  await tx.$executeRaw(leaseInsert(lease));
}

/** The same as a part of a statement. */
export function leaseInsert({ id, owner, spec, at, promise }: AcceptedLease): Prisma.Sql {
  return Prisma.sql`
    INSERT INTO "Lease" (id, "ownerId", kind, "durationS", priority, preemptible, "deadlineAt", "startAt", "endAt", "plannedHosts", "createdAt")
    VALUES (${id}, ${owner}, ${spec.kind}::"LeaseKind", ${spec.durationS}, ${spec.priority ?? 0}, ${spec.preemptible ?? true},
            ${spec.deadline ?? null}::timestamptz, ${isoOrNull(promise?.startAtMs)}::timestamptz,
            ${isoOrNull(promise?.endAtMs)}::timestamptz, ${promise?.hosts ?? []}, ${at}::timestamptz)`;
}

const isoOrNull = (ms: number | undefined): string | null => (ms === undefined ? null : isoOf(ms));
