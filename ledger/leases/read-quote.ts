import type { Resources } from '../../model/host.ts';
import { newId } from '../../model/ids.ts';
import { pricedOrder } from '../../model/money/priced-order.ts';
import type { LeaseSpec } from '../../model/task.ts';
import type { Ledger } from '../client.ts';
import { findImage } from '../images/find-image.ts';
import { insertQuote, type PriceQuote } from '../market/quotes.ts';
import { isoOf } from '../transaction.ts';
import { type LeaseQuote, quoteLease } from './admission.ts';

interface QuoteRequest {
  owner: string;
  /** Its name. */
  image: string;
  /** Of each VM, without the image's own size. */
  resources: Resources;
  nodes: number;
  lease: LeaseSpec;
  /** For how long its price holds. */
  validS: number;
  nowMs: number;
}

const isoOrNull = (time: string | undefined): string | null => (time === undefined ? null : isoOf(Date.parse(time)));

/**
 * When a lease would start and end if it were requested now, and what it would cost. Nothing is booked; a price is kept for its
 * time. Throws image-unknown and amount-out-of-bounds.
 */
export async function readQuote(ledger: Ledger, request: QuoteRequest): Promise<LeaseQuote & { price: PriceQuote | null }> {
  const { owner, resources, nodes, lease, nowMs, validS } = request;
  const image = await findImage(ledger, owner, request.image, '/image');
  const each = { ...resources, diskMiB: resources.diskMiB + image.virtualMiB };
  const quote = await quoteLease(ledger, { id: newId('lease'), spec: lease, nodes, each, image, nowMs });
  if (!quote.accepted) return { ...quote, price: null };
  const order = pricedOrder({
    ...each,
    image: image.name,
    nodes,
    kind: lease.kind,
    preemptible: lease.preemptible ?? true,
    startAt: isoOrNull(lease.startAt),
    deadlineAt: isoOrNull(lease.deadline),
    durationS: lease.durationS,
  });
  return { ...quote, price: await insertQuote(ledger, owner, order, { nowMs, validS }) };
}
