import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { originOf, type WebhookDisabledReason, type WebhookId, type WebhookState } from '../../model/webhooks/webhook.ts';
import { isoOf, type Transaction } from '../transaction.ts';

export interface WebhookSecretRecord {
  id: string;
  createdAt: Date;
  expiresAt: Date | null;
}

/** A webhook without its secrets. */
export interface WebhookRecord {
  id: WebhookId;
  ownerId: string;
  url: string;
  description: string;
  types: string[];
  /** Events of every owner. */
  site: boolean;
  state: WebhookState;
  disabledReason: WebhookDisabledReason | null;
  disabledAt: Date | null;
  cursor: bigint;
  /** How many attempts have failed since the last success. */
  failures: number;
  failingSince: Date | null;
  lastError: string | null;
  retryAt: Date | null;
  deliveredAt: Date | null;
  createdAt: Date;
  secrets: WebhookSecretRecord[];
}

export const shownWebhook = {
  id: true,
  ownerId: true,
  url: true,
  description: true,
  types: true,
  site: true,
  state: true,
  disabledReason: true,
  disabledAt: true,
  cursor: true,
  failures: true,
  failingSince: true,
  lastError: true,
  retryAt: true,
  deliveredAt: true,
  createdAt: true,
  secrets: { select: { id: true, createdAt: true, expiresAt: true }, orderBy: [{ createdAt: 'desc' }, { id: 'desc' }] },
} as const satisfies Prisma.WebhookSelect;

type WebhookRow = Prisma.WebhookGetPayload<{ select: typeof shownWebhook }>;

export const webhookOf = (row: WebhookRow): WebhookRecord => ({
  ...row,
  id: row.id as WebhookId,
  disabledReason: row.disabledReason as WebhookDisabledReason | null,
});

/** @param owner whose; null: any owner's. Throws not-found. */
export async function findWebhook(tx: Transaction, owner: string | null, id: string): Promise<WebhookRecord> {
  const row = await tx.webhook.findFirst({ where: { id, ...(owner !== null && { ownerId: owner }) }, select: shownWebhook });
  if (row === null) throw new BerthError('not-found', `There is no webhook ${id}`);
  return webhookOf(row);
}

/** The same, locked to the end of the transaction: what is delivered meanwhile is recorded after it. */
export async function lockWebhook(tx: Transaction, owner: string | null, id: string): Promise<WebhookRecord> {
  await tx.$executeRaw`SELECT 1 FROM "Webhook" WHERE id = ${id} FOR UPDATE`;
  return findWebhook(tx, owner, id);
}

/** What a secret of an endpoint is encrypted for: a row that is copied to another endpoint is not decrypted. */
export const sealHolderOf = (webhook: string, secret: string): string => `${webhook}/${secret}`;

/** What has every event about an endpoint. */
export function aboutWebhook({ id, ownerId, url }: Pick<WebhookRecord, 'ownerId' | 'url'> & { id: string }, nowMs: number) {
  const at = isoOf(nowMs);
  return { subject: id, owner: ownerId, time: at, data: { webhook: id, owner: ownerId, origin: originOf(url), at } };
}

/** Of an endpoint that was changed: its deliveries begin again, with what it is now, unless the next attempt waits for its time. */
export const dueAgain = ({ state, retryAt }: Pick<WebhookRecord, 'state' | 'retryAt'>, now: Date): { dueAt?: Date } =>
  state === 'active' && retryAt === null ? { dueAt: now } : {};
