import { newId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';
import type { StoredPart } from './image-refs.ts';

/** An image of the site, built outside of Berth, with its parts as files of the repository. */
export interface BuiltImage {
  name: string;
  digest: string;
  virtualMiB: number;
  cmdline: string;
  parts: { disk: StoredPart; kernel: StoredPart; initrd: StoredPart };
}

const rowOf = (ledger: Ledger, name: string, digest: string) =>
  ledger.image.findFirst({
    where: { ownerId: null, name, digest, state: { not: 'retired' } },
    select: { id: true, state: true },
  });

/** Whether every owner can use this image of the site. */
export async function isPublished(ledger: Ledger, name: string, digest: string): Promise<boolean> {
  return (await rowOf(ledger, name, digest))?.state === 'ready';
}

/** Writes the row that makes the image visible to every owner; its parts are uploaded already. */
export async function publishBuiltImage(ledger: Ledger, image: BuiltImage): Promise<void> {
  const { name, digest, virtualMiB, cmdline, parts } = image;
  const sizeBytes = Object.values(parts).reduce((sum, part) => sum + part.sizeBytes, 0);
  const row = {
    state: 'ready',
    recipe: { builtBy: 'infra/guest' },
    virtualMiB,
    cmdline,
    sizeBytes: BigInt(sizeBytes),
    parts: { disk: { ...parts.disk }, kernel: { ...parts.kernel }, initrd: { ...parts.initrd } },
  } as const;
  const found = await rowOf(ledger, name, digest);
  if (found === null) await ledger.image.create({ data: { id: newId('image'), name, digest, ...row } });
  else await ledger.image.update({ where: { id: found.id }, data: row });
}
