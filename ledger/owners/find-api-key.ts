import type { Ledger } from '../client.ts';

interface ApiKeyRecord {
  id: string;
  ownerId: string;
  role: 'client' | 'operator';
}

/** The key of this hash; null when there is none or it was revoked. */
export async function findApiKey(ledger: Ledger, hash: string): Promise<ApiKeyRecord | null> {
  const row = await ledger.apiKey.findUnique({ where: { hash } });
  return !row || row.revokedAt !== null ? null : { id: row.id, ownerId: row.ownerId, role: row.role };
}
