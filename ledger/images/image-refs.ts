import { z } from 'zod';
import { BerthError } from '../../model/errors.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import type { ContentRef, ImageRef } from '../../model/vm.ts';
import { fileUrl } from '../files/urls.ts';
import { idOf } from '../row-schemas.ts';
import type { LedgerDeps, SigningDeps } from '../transaction.ts';

/** A part of an image: a file of the repository. */
const StoredPart = z.object({ file: z.string().min(1), sha256: z.string().min(1), sizeBytes: z.number().min(0) });

export const ImageRow = z.strictObject({
  id: idOf<ImageId>(),
  name: z.string(),
  digest: z.string(),
  virtualMiB: z.number().min(0),
  cmdline: z.string(),
  cloudInit: z.boolean(),
  parts: z.record(z.string(), StoredPart),
});

/** A host, as a peer or a destination of an image. */
export const ImageHolder = z.strictObject({
  id: idOf<HostId>(),
  address: z.string(),
  provider: z.string(),
  /** The host is up, and has the image in its cache. */
  hasImage: z.boolean(),
});

const IssuedImage = z.strictObject({ image: ImageRow, hosts: z.array(ImageHolder) });

export type StoredPart = z.infer<typeof StoredPart>;
export type ImageRow = z.infer<typeof ImageRow>;
export type ImageHolder = z.infer<typeof ImageHolder>;

function blobRef(deps: SigningDeps, part: StoredPart | undefined): ContentRef | null {
  if (part === undefined) return null;
  return { sha256: part.sha256, sizeBytes: part.sizeBytes, url: fileUrl(deps, part.file) };
}

/** An image as a host fetches it, with fresh URLs and the peers that have it now. Throws image-unknown. */
export function imageRef(deps: SigningDeps, image: ImageRow, hosts: ImageHolder[], here: HostId): ImageRef {
  const { id, name, digest, virtualMiB, cmdline, cloudInit, parts } = image;
  const disk = blobRef(deps, parts.disk);
  if (disk === null) throw new BerthError('image-unknown', `The image ${name} (${id}) has no disk: publish it again`);
  const [kernel, initrd] = [blobRef(deps, parts.kernel), blobRef(deps, parts.initrd)];
  return { id, name, digest, virtualMiB, cmdline, cloudInit, parts: { disk, kernel, initrd }, peers: peersOf(hosts, here) };
}

/**
 * The nearest first: hosts of the same provider before others. Within each group every host begins at another one, the
 * next after itself in the order of ids, so that the hosts do not all request from the same peer.
 */
function peersOf(hosts: ImageHolder[], here: HostId): string[] {
  const provider = hosts.find(({ id }) => id === here)?.provider;
  const sorted = hosts.filter(({ hasImage, id }) => hasImage && id !== here).sort((a, b) => (a.id < b.id ? -1 : 1));
  const rotated = [...sorted.filter(({ id }) => id > here), ...sorted.filter(({ id }) => id < here)];
  const near = rotated.filter((host) => host.provider === provider);
  const far = rotated.filter((host) => host.provider !== provider);
  return [...near, ...far].map(({ address }) => address);
}

/** The same for one host. Throws image-unknown unless the image is ready. */
export async function issueImageRef(deps: LedgerDeps, id: ImageId, host: HostId): Promise<ImageRef> {
  const rows = await deps.ledger.$queryRaw<unknown[]>`
    SELECT jsonb_build_object('id', i.id, 'name', i.name, 'digest', i.digest, 'virtualMiB', i."virtualMiB",
        'cmdline', i.cmdline, 'cloudInit', i."cloudInit", 'parts', i.parts) AS image,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', h.id, 'address', h.address, 'provider', h.provider,
        'hasImage', h.state = 'up' AND EXISTS (SELECT FROM "HostImage" x WHERE x."hostId" = h.id AND x."imageId" = i.id))),
        '[]') FROM "Host" h) AS hosts
    FROM "Image" i WHERE i.id = ${id} AND i.state = 'ready'`;
  if (rows.length === 0) throw new BerthError('image-unknown', `There is no image ${id} that is ready`);
  const { image, hosts } = IssuedImage.parse(rows[0]);
  return imageRef(deps, image, hosts, host);
}
