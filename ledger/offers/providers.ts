import { hashSecret, newSecret } from '../../model/api-key.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import type { Transaction } from '../transaction.ts';

export interface ProviderRecord {
  name: string;
  ownerId: string;
  createdAt: Date;
  /** That have joined and are part of the site. */
  hosts: number;
}

/** @param owner whose; null: everybody's. The first thousand by name */
export async function readProviders(ledger: Ledger, owner: string | null): Promise<ProviderRecord[]> {
  return ledger.$queryRaw<ProviderRecord[]>`
    SELECT p.name, p."ownerId", p."createdAt",
      (SELECT count(*)::int FROM "Host" h WHERE h.provider = p.name AND h."removedAt" IS NULL) AS hosts
    FROM "Provider" p WHERE ${owner}::text IS NULL OR p."ownerId" = ${owner} ORDER BY p.name LIMIT 1000`;
}

/** @param owner who asks; null: an operator. Throws not-found for one that is not its own. */
export async function findProvider(
  tx: Transaction,
  owner: string | null,
  name: string,
): Promise<{ name: string; ownerId: string }> {
  const row = await tx.provider.findFirst({ where: { name, ...(owner !== null && { ownerId: owner }) } });
  if (row === null) throw new BerthError('not-found', `There is no provider ${name}`);
  return row;
}

/**
 * Gives a provider to an owner: from then on its hosts join by tokens of its owner, who sees its account. Throws conflict for one that
 * somebody has, and not-found for the owner.
 */
export async function acceptProviderOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { name, ownerId, nowMs }: { name: string; ownerId: string; nowMs: number },
  answer: (provider: ProviderRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    if ((await tx.owner.count({ where: { id: ownerId } })) === 0)
      throw new BerthError('not-found', `There is no owner ${ownerId}`);
    const { count } = await tx.provider.createMany({
      data: { name, ownerId, createdAt: new Date(nowMs) },
      skipDuplicates: true,
    });
    if (count === 0) throw new BerthError('conflict', `The provider ${name} belongs to an owner already`);
    await tx.account.updateMany({ where: { kind: 'provider', holder: name }, data: { ownerId } });
    const hosts = await tx.host.count({ where: { provider: name, removedAt: null } });
    return answer({ name, ownerId, createdAt: new Date(nowMs), hosts });
  });
}

export interface NewJoinToken {
  id: string;
  provider: string;
  /** Shown once, and kept as a digest. */
  token: string;
  expiresAt: Date;
}

/** Makes a token with which one machine joins as a host of the provider. Not repeated by an idempotency key, which would keep it. */
export async function acceptJoinToken(
  ledger: Ledger,
  provider: string,
  { nowMs, validS }: { nowMs: number; validS: number },
): Promise<NewJoinToken> {
  const token = newSecret('join');
  const expiresAt = new Date(nowMs + validS * 1000);
  const id = newId('join');
  await ledger.joinToken.create({ data: { id, provider, hash: hashSecret(token), expiresAt, createdAt: new Date(nowMs) } });
  return { id, provider, token, expiresAt };
}

interface Joining {
  hostId: string;
  provider: string;
  /** What its worker was started with. */
  joinToken?: string | undefined;
}

/**
 * Which provider a machine registers for. What somebody owns is joined by a token, once for each host; a host that has joined keeps its
 * provider without. Nor does any host change its provider while VMs are there, or are billed for having been. Throws conflict.
 */
export async function providerOfHost(tx: Transaction, { hostId, provider, joinToken }: Joining, now: string): Promise<string> {
  const before = await tx.host.findUnique({ where: { id: hostId }, select: { provider: true, removedAt: true } });
  const joined = before === null || before.removedAt !== null ? null : before.provider;
  const named = joinToken === undefined ? null : await takeToken(tx, hostId, joinToken, now);
  const wanted = named ?? provider;
  if (joined !== wanted && before !== null) await refuseProviderChange(tx, hostId, before.provider, wanted);
  if (joined === wanted || named !== null) return wanted;
  if ((await tx.provider.count({ where: { name: wanted } })) > 0)
    throw new BerthError(
      'conflict',
      `Host ${hostId} registers for the provider ${wanted}, which belongs to an owner: it joins with a token of that (BERTH_JOIN_TOKEN)`,
    );
  return wanted;
}

/** @returns the token's provider; null: it names none that counts any more, and was this host's before */
async function takeToken(tx: Transaction, hostId: string, token: string, now: string): Promise<string | null> {
  const rows = await tx.$queryRaw<{ id: string; provider: string; usedBy: string | null; expired: boolean }[]>`
    SELECT id, provider, "usedBy", "expiresAt" <= ${now}::timestamptz AS expired FROM "JoinToken" WHERE hash = ${hashSecret(token)} FOR UPDATE`;
  const [row] = rows;
  const refuse = (why: string) =>
    new BerthError('conflict', `Host ${hostId} registers with a token that ${why}; make another one`);
  if (row === undefined) throw refuse('there is not');
  // Its worker starts with it each time.
  if (row.usedBy === hostId) return row.provider;
  if (row.usedBy !== null) throw refuse(`host ${row.usedBy} has joined with`);
  if (row.expired) throw refuse('has expired');
  await tx.joinToken.update({ where: { id: row.id }, data: { usedBy: hostId, usedAt: now } });
  return row.provider;
}

/** Usage is billed by the provider of its host: also what it was some time ago. */
async function refuseProviderChange(tx: Transaction, hostId: string, from: string, to: string): Promise<void> {
  if (from === to) return;
  const rows = await tx.$queryRaw<{ id: string }[]>`
    SELECT v.id FROM "Vm" v LEFT JOIN "VmStay" s ON s."vmId" = v.id AND s."hostId" = ${hostId}
    WHERE (v."hostId" = ${hostId} OR s."vmId" IS NOT NULL) AND (v.state NOT IN ('pending', 'removed') OR EXISTS (
      SELECT FROM "Bill" b WHERE b."leaseId" = v."leaseId" AND b."endedAt" IS NULL)) LIMIT 1`;
  if (rows[0] !== undefined)
    throw new BerthError(
      'conflict',
      `Host ${hostId} is of the provider ${from}, and is billed as that, as for VM ${rows[0].id}: it can be ${to}'s when nothing of it is open`,
    );
}
