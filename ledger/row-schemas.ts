import { z } from 'zod';

/**
 * Shapes that several of the ledger's large queries aggregate as JSON. These queries are not checked by Prisma's types, so
 * their rows are parsed: a misspelt alias, or a JSON column of another shape, is an error here and no wrong decision.
 */

/** An id; branded like the parameter, since the ledger's own rows are trusted to name the right kind of thing. */
export const idOf = <T extends string>(): z.ZodType<T> => z.string().min(1) as unknown as z.ZodType<T>;

/** What jsonb_agg returns: null where there are no rows. @param most upper bound of the query */
export const listOf = <T extends z.ZodType>(item: T, most = Number.MAX_SAFE_INTEGER) =>
  z
    .array(item)
    .max(most)
    .nullable()
    .transform((rows) => rows ?? []);

export const resources = z.strictObject({ vcpus: z.int().min(0), memoryMiB: z.int().min(0), diskMiB: z.int().min(0) });

/** Why a task or VM waits; a JSON column. */
export const refusal = z.object({ hosts: z.int().min(0), failed: z.record(z.string(), z.int().min(0)) });
