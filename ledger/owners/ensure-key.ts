import { hashApiKey } from '../../model/api-key.ts';
import { newId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';

/** Gives an owner an API key, and makes the owner where there is none of that name; may be repeated. Only the key's hash is kept. */
export async function ensureKey(ledger: Ledger, name: string, role: 'client' | 'operator', key: string): Promise<void> {
  const hash = hashApiKey(key);
  const owner = await ledger.owner.upsert({ where: { name }, create: { id: newId('owner'), name }, update: {} });
  await ledger.apiKey.upsert({ where: { hash }, create: { id: newId('key'), ownerId: owner.id, role, hash }, update: {} });
}
