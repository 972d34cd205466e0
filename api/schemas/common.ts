import { z } from 'zod';
import { type ErrorCode, errorTable } from '../../model/errors.ts';

/** What several resources have. Sizes carry their unit in the name; times are RFC 3339 in UTC. */
export const time = z.iso.datetime().meta({ example: '2026-11-21T12:00:00.000Z' });

/** A column that may have none, as `time` or null. */
export const iso = (at: Date | null): string | null => at?.toISOString() ?? null;

/** A time of the caller's: RFC 3339 with any offset. */
export const timeWithOffset = z.iso.datetime({ offset: true });
export const sha256 = z.string().regex(/^[0-9a-f]{64}$/, { error: 'expected 64 lower-case hexadecimal digits' });
export const bytes = z.int().min(0);
export const codes = Object.keys(errorTable) as [ErrorCode, ...ErrorCode[]];
export const resources = z.strictObject({ vcpus: z.int(), memoryMiB: z.int(), diskMiB: z.int() });

/** bigint's largest: PostgreSQL has no greater sequence. */
const lastSequence = 2n ** 63n - 1n;

/** Of an event, and the cursor after it. */
export const sequence = z
  .string()
  .regex(/^\d{1,19}$/, { error: 'expected the sequence of an event', abort: true })
  .refine((text) => BigInt(text) <= lastSequence, { error: 'expected the sequence of an event' });

/** Why a task or a VM waits. */
export const waiting = z.strictObject({ hosts: z.int(), failed: z.record(z.string(), z.int()) }).nullable();
export const remainingItem = z.strictObject({ what: z.string(), why: z.string() });

/** The path parameter of every resource that is addressed by its id. */
export const Id = z.strictObject({ id: z.string() });
