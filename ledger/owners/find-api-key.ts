import type { Ledger } from '../client.ts';

/** A key that is valid. */
interface ApiKeyRecord {
  id: string;
  ownerId: string;
  role: 'client' | 'operator';
  expiresAt: Date | null;
}

/** The key of this hash; null when there is none, it was revoked, or it has expired. */
export async function findApiKey(ledger: Ledger, hash: string, nowMs: number): Promise<ApiKeyRecord | null> {
  const row = await ledger.apiKey.findUnique({ where: { hash } });
  if (row === null || row.revokedAt !== null) return null;
  if (row.expiresAt !== null && row.expiresAt.getTime() <= nowMs) return null;
  return { id: row.id, ownerId: row.ownerId, role: row.role, expiresAt: row.expiresAt };
}

/** Which of these keys are not valid any more. */
export async function findEndedKeys(ledger: Ledger, ids: readonly string[], nowMs: number): Promise<string[]> {
  const rows = await ledger.apiKey.findMany({
    where: { id: { in: [...ids] }, OR: [{ revokedAt: { not: null } }, { expiresAt: { lte: new Date(nowMs) } }] },
    select: { id: true },
  });
  return rows.map(({ id }) => id);
}
