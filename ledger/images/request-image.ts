import type { QuotaLimits } from '../../model/owners/quota.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { lockOwner } from '../owners/lock-owner.ts';
import { refuseOverQuotas } from '../owners/quotas.ts';
import { inTransaction, requestLimits } from '../transaction.ts';
import { acceptImage, type BuildRequest } from './accept-image.ts';
import { publishImages } from './publish-images.ts';
import { findImageById, type ImageRecord } from './read-images.ts';
import { type RetiredImages, type RetireRequest, retireImages } from './retire-images.ts';

/** Accepts a recipe once for each idempotency key. Its VM counts against the owner's quotas. Throws quota-exceeded, and what acceptImage throws. */
export async function acceptImageOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  build: BuildRequest & { quotas: QuotaLimits },
  answer: (image: ImageRecord, state: 'ready' | 'building') => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    await lockOwner(tx, 'quotas', build.owner);
    const { id, state } = await acceptImage(tx, build);
    if (state === 'building') await refuseOverQuotas(tx, build.owner, { limits: build.quotas, nowMs: build.nowMs }, id);
    return answer(await findImageById(tx, id), state);
  });
}

/** Publishes what one owner's name stands for, or takes it back. Throws conflict (publish-images.ts). */
export async function changeImagePublication(
  ledger: Ledger,
  publication: { owner: string; name: string; published: boolean; nowMs: number },
): Promise<void> {
  await inTransaction(ledger, (tx) => publishImages(tx, publication), requestLimits);
}

/** Retires what a name stands for. Throws not-found and in-use (retire-images.ts). */
export async function changeImagesRetired(ledger: Ledger, request: RetireRequest): Promise<RetiredImages> {
  return inTransaction(ledger, (tx) => retireImages(tx, request), requestLimits);
}
