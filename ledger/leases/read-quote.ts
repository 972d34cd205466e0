import type { Resources } from '../../model/host.ts';
import { newId } from '../../model/ids.ts';
import type { LeaseSpec } from '../../model/task.ts';
import type { Ledger } from '../client.ts';
import { findImage } from '../images/find-image.ts';
import { type LeaseQuote, quoteLease } from './admission.ts';

interface QuoteRequest {
  owner: string;
  /** Its name. */
  image: string;
  /** Of each VM, without the image's own size. */
  resources: Resources;
  nodes: number;
  lease: LeaseSpec;
  nowMs: number;
}

/** When a lease would start and end if it were requested now. Nothing is booked. Throws image-unknown. */
export async function readQuote(ledger: Ledger, request: QuoteRequest): Promise<LeaseQuote> {
  const { owner, resources, nodes, lease, nowMs } = request;
  const image = await findImage(ledger, owner, request.image, '/image');
  const each = { ...resources, diskMiB: resources.diskMiB + image.virtualMiB };
  return quoteLease(ledger, { id: newId('lease'), spec: lease, nodes, each, image, nowMs });
}
