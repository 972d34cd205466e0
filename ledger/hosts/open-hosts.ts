import { Prisma } from '../../generated/prisma/client.ts';

/** Conditions on a row "Host" h, the same for everything that chooses hosts. */

/** Neither an operator nor its clock keeps new work from it. */
export const isOpen = Prisma.sql`(h.schedulable AND NOT h."clockOff")`;

/** New work can be placed on it now. */
export const takesWork = Prisma.sql`(h."removedAt" IS NULL AND h.state = 'up' AND ${isOpen})`;

/** Neither an operator nor its clock keeps migrations from it. */
export const isOpenToMigrations = Prisma.sql`(h."acceptsMigrations" AND NOT h."clockOff")`;
