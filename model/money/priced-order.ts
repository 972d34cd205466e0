import { z } from 'zod';
import { type MeteredSize, mostMicros } from './cost.ts';
import { msPerHour } from './exact.ts';
import type { PriceClass, PriceTerms } from './price-terms.ts';

/** An order as far as its price depends on it. What a quote says of one holds for an order that is equal. */
export const PricedOrder = z.strictObject({
  image: z.string(),
  nodes: z.int(),
  vcpus: z.int(),
  memoryMiB: z.int(),
  /** Of all disks of a VM, its image's size included. */
  diskMiB: z.int(),
  kind: z.enum(['reservation', 'bestEffort', 'immediate']),
  preemptible: z.boolean(),
  /** RFC 3339, of a reservation. */
  startAt: z.string().nullable(),
  deadlineAt: z.string().nullable(),
  /** null: until it is deleted. */
  durationS: z.int().nullable(),
});
export type PricedOrder = z.infer<typeof PricedOrder>;

/** Its start is fixed when it is accepted: all of its money is held. */
export const hasFixedStart = ({ kind, deadlineAt }: Pick<PricedOrder, 'kind' | 'deadlineAt'>): boolean =>
  kind !== 'bestEffort' || deadlineAt !== null;

/** Without what does not count: whether a lease with a fixed start may be suspended. */
export const pricedOrder = (order: PricedOrder): PricedOrder => ({
  ...order,
  preemptible: order.preemptible && !hasFixedStart(order),
});

export function priceClassOf(order: PricedOrder): PriceClass {
  if (hasFixedStart(order)) return 'reservation';
  return order.preemptible ? 'interruptible' : 'bestEffort';
}

/** The fields in which an order differs from the one that was quoted. */
export const differences = (order: PricedOrder, quoted: PricedOrder): string[] =>
  (Object.keys(PricedOrder.shape) as (keyof PricedOrder)[]).filter((field) => order[field] !== quoted[field]);

/** The most that an order can cost, and what is held of that at its acceptance: all of it, or an hour of best effort. */
export interface PriceLimits {
  /** null: it has no end. */
  totalMicros: bigint | null;
  holdMicros: bigint;
}

export function limitsOf(terms: PriceTerms, order: PricedOrder): PriceLimits {
  const { vcpus, memoryMiB, diskMiB, durationS, startAt } = order;
  const size: MeteredSize = { vcpus, memoryMiB, diskMiB };
  const most = (time: Parameters<typeof mostMicros>[2]): bigint => BigInt(order.nodes) * mostMicros(terms, size, time);
  const hour = most({ durationMs: Number(msPerHour) });
  if (durationS === null) return { totalMicros: null, holdMicros: hour };
  const durationMs = durationS * 1000;
  const fromMs = startAt === null ? null : Date.parse(startAt);
  const totalMicros = most(fromMs === null ? { durationMs } : { fromMs, untilMs: fromMs + durationMs });
  return { totalMicros, holdMicros: hasFixedStart(order) || totalMicros < hour ? totalMicros : hour };
}
