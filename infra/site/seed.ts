import { createReadStream } from 'node:fs';
import { readFile, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Ledger } from '../../ledger/client.ts';
import { isPublished, publishBuiltImage } from '../../ledger/images/publish-built-image.ts';
import { ensureKey } from '../../ledger/owners/ensure-key.ts';
import { newApiKey } from '../../model/api-key.ts';
import { persistentSecret } from './secrets.ts';

/** The owners and keys of a new site. Every start repeats the seeding. */
const seededOwners = [
  { owner: 'operator', role: 'operator', file: 'operator' },
  { owner: 'demo', role: 'client', file: 'client' },
] as const;

export interface KeyFiles {
  operatorKeyFile: string;
  clientKeyFile: string;
}

/**
 * Creates an owner with an API key for the operator, and one for a client; writes the keys to files that only root can
 * read.
 */
export async function seedOwners(ledger: Ledger, keysFolder: string): Promise<KeyFiles> {
  for (const { owner, role, file } of seededOwners)
    await ensureKey(ledger, owner, role, persistentSecret(join(keysFolder, file), newApiKey));
  return { operatorKeyFile: join(keysFolder, 'operator'), clientKeyFile: join(keysFolder, 'client') };
}

/** Returns a new key for an owner, and creates the owner if none has that name. */
export async function addOwner(ledger: Ledger, name: string, role: 'client' | 'operator'): Promise<string> {
  const key = newApiKey();
  await ensureKey(ledger, name, role, key);
  return key;
}

const Part = z.object({ sha256: z.string(), sizeBytes: z.number() });
/** image.json, beside the parts of an image in the cache; infra/guest writes it. */
const BuiltImage = z.object({
  name: z.string(),
  digest: z.string(),
  virtualMiB: z.number().int(),
  cmdline: z.string(),
  parts: z.object({ disk: Part, kernel: Part, initrd: Part }),
});
const partFiles = { disk: 'disk.qcow2', kernel: 'kernel', initrd: 'initrd' } as const;

/**
 * Publishes the built image: uploads its parts through the API, then writes its row, which makes it visible.
 * @param folder the folder of the built image, with image.json
 * @returns what was published; null when it already existed
 */
export async function publishImage(ledger: Ledger, api: string, operatorKeyFile: string, folder: string): Promise<string | null> {
  const home = await realpath(folder);
  const image = BuiltImage.parse(JSON.parse(await readFile(join(home, 'image.json'), 'utf8')));
  if (await isPublished(ledger, image.name, image.digest)) return null;
  const key = (await readFile(operatorKeyFile, 'utf8')).trim();
  const upload = async (part: keyof typeof partFiles): Promise<{ file: string; sha256: string; sizeBytes: number }> => {
    const { sha256, sizeBytes } = image.parts[part];
    const file = await uploadPart(api, key, join(home, partFiles[part]), `${image.name}/${part}`, sha256, sizeBytes);
    return { file, sha256, sizeBytes };
  };
  const [disk, kernel, initrd] = await Promise.all([upload('disk'), upload('kernel'), upload('initrd')]);
  await publishBuiltImage(ledger, { ...image, parts: { disk, kernel, initrd } });
  return `${image.name} ${image.digest.slice(0, 12)}`;
}

/** Uploads one part; after a crash, the idempotency key returns the existing file. */
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
