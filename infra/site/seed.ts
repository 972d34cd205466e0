import { createReadStream } from 'node:fs';
import { readFile, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Ledger } from '../../ledger/client.ts';
import { hashApiKey, newApiKey } from '../../model/api-key.ts';
import { newId } from '../../model/ids.ts';
import { persistentSecret } from './secrets.ts';

/** What a new site has so that it can be used at once. All of it may be repeated, and is on every start. */
const seededOwners = [
  { owner: 'operator', role: 'operator', file: 'operator' },
  { owner: 'demo', role: 'client', file: 'client' },
] as const;

export interface KeyFiles {
  operatorKeyFile: string;
  clientKeyFile: string;
}

/** An owner with an API key for the operator, and one for a client; the keys in files that only root can read. */
export async function seedOwners(ledger: Ledger, keysFolder: string): Promise<KeyFiles> {
  for (const { owner, role, file } of seededOwners)
    await ensureKey(ledger, owner, role, persistentSecret(join(keysFolder, file), newApiKey));
  return { operatorKeyFile: join(keysFolder, 'operator'), clientKeyFile: join(keysFolder, 'client') };
}

async function ensureKey(ledger: Ledger, name: string, role: 'client' | 'operator', key: string): Promise<void> {
  const hash = hashApiKey(key);
  const owner = await ledger.owner.upsert({ where: { name }, create: { id: newId('owner'), name }, update: {} });
  await ledger.apiKey.upsert({ where: { hash }, create: { id: newId('key'), ownerId: owner.id, role, hash }, update: {} });
}

/** A new key for an owner, who is made where there is none of that name. The ledger keeps its hash alone. */
export async function addOwner(ledger: Ledger, name: string, role: 'client' | 'operator'): Promise<string> {
  const key = newApiKey();
  await ensureKey(ledger, name, role, key);
  return key;
}

const Part = z.object({ sha256: z.string(), sizeBytes: z.number() });
/** image.json, next to the parts of an image in the cache: infra/guest writes it. */
const BuiltImage = z.object({
  name: z.string(),
  digest: z.string(),
  virtualMiB: z.number().int(),
  cmdline: z.string(),
  parts: z.object({ disk: Part, kernel: Part, initrd: Part }),
});
const partFiles = { disk: 'disk.qcow2', kernel: 'kernel', initrd: 'initrd' } as const;

/**
 * Publishes the built image: its parts through the API like anybody's files, then its row, which makes it visible.
 * @param folder of the built image, with image.json
 * @returns what was published; null when it was there already
 */
export async function publishImage(ledger: Ledger, api: string, operatorKeyFile: string, folder: string): Promise<string | null> {
  const home = await realpath(folder);
  const image = BuiltImage.parse(JSON.parse(await readFile(join(home, 'image.json'), 'utf8')));
  const where = { ownerId: null, name: image.name, digest: image.digest, state: { not: 'retired' as const } };
  const found = await ledger.image.findFirst({ where, select: { id: true, state: true } });
  if (found?.state === 'ready') return null;
  const key = (await readFile(operatorKeyFile, 'utf8')).trim();
  const upload = async (part: keyof typeof partFiles): Promise<{ file: string; sha256: string; sizeBytes: number }> => {
    const { sha256, sizeBytes } = image.parts[part];
    const file = await uploadPart(api, key, join(home, partFiles[part]), `${image.name}/${part}`, sha256, sizeBytes);
    return { file, sha256, sizeBytes };
  };
  const [disk, kernel, initrd] = await Promise.all([upload('disk'), upload('kernel'), upload('initrd')]);
  const row = {
    state: 'ready',
    recipe: { builtBy: 'infra/guest' },
    virtualMiB: image.virtualMiB,
    cmdline: image.cmdline,
    sizeBytes: BigInt(disk.sizeBytes + kernel.sizeBytes + initrd.sizeBytes),
    parts: { disk, kernel, initrd },
  } as const;
  if (found === null) await ledger.image.create({ data: { id: newId('image'), name: image.name, digest: image.digest, ...row } });
  else await ledger.image.update({ where: { id: found.id }, data: row });
  return `${image.name} ${image.digest.slice(0, 12)}`;
}

/** Uploads one part; after a crash in between, the idempotency key finds the file that is there. */
async function uploadPart(
  api: string,
  key: string,
  path: string,
  name: string,
  sha256: string,
  sizeBytes: number,
): Promise<string> {
  const response = await fetch(new URL(`/v1/files?name=${encodeURIComponent(name)}`, api), {
    method: 'POST',
    headers: {
      authorization: `Bearer ${key}`,
      'content-type': 'application/octet-stream',
      'content-length': String(sizeBytes),
      'idempotency-key': `seed-${sha256}`,
    },
    body: createReadStream(path, { highWaterMark: 2 ** 20 }),
    duplex: 'half',
  });
  const answer = (await response.json()) as { id?: string; sha256?: string };
  if (!response.ok || answer.id === undefined) throw new Error(`Uploading ${path}: ${response.status} ${JSON.stringify(answer)}`);
  if (answer.sha256 !== sha256)
    throw new Error(`${path} has the SHA-256 ${answer.sha256}, and image.json says ${sha256}: build the image again`);
  return answer.id;
}
