import { z } from 'zod';
import { Prisma } from '../../generated/prisma/client.ts';
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

/** More peers than a fetch would try before it goes to the repository. */
const maxPeers = 8;

/**
 * Addresses of hosts that have an image, for the host `here`, nearest first: those of the same provider before others. Within
 * each group every host begins at another one, the next after itself in the order of ids, so that the hosts do not all
 * request from the same peer.
 */
export const imagePeers = (image: Prisma.Sql, here: Prisma.Sql): Prisma.Sql => Prisma.sql`(
  SELECT COALESCE(jsonb_agg(p.address ORDER BY p.nth), '[]') FROM (
    SELECT h.address, row_number() OVER (ORDER BY h.provider <> me.provider, h.id < me.id, h.id) AS nth
    FROM "Host" me JOIN "HostImage" x ON x."imageId" = ${image} JOIN "Host" h ON h.id = x."hostId" AND h.state = 'up' AND h.id <> me.id
    WHERE me.id = ${here} ORDER BY nth LIMIT ${maxPeers}) p)`;

const IssuedImage = z.strictObject({ image: ImageRow, peers: z.array(z.string()) });

export type StoredPart = z.infer<typeof StoredPart>;
export type ImageRow = z.infer<typeof ImageRow>;

function blobRef(deps: SigningDeps, part: StoredPart | undefined): ContentRef | null {
  if (part === undefined) return null;
  return { sha256: part.sha256, sizeBytes: part.sizeBytes, url: fileUrl(deps, part.file) };
}

/** An image as a host fetches it, with fresh URLs. Throws image-unknown. */
export function imageRef(deps: SigningDeps, image: ImageRow, peers: string[]): ImageRef {
  const { id, name, digest, virtualMiB, cmdline, cloudInit, parts } = image;
  const disk = blobRef(deps, parts.disk);
  if (disk === null) throw new BerthError('image-unknown', `The image ${name} (${id}) has no disk: publish it again`);
  const [kernel, initrd] = [blobRef(deps, parts.kernel), blobRef(deps, parts.initrd)];
  return { id, name, digest, virtualMiB, cmdline, cloudInit, parts: { disk, kernel, initrd }, peers };
}

/** An image for one host, with the peers that have it now. Throws image-unknown unless the image is ready. */
export async function issueImageRef(deps: LedgerDeps, id: ImageId, host: HostId): Promise<ImageRef> {
  const rows = await deps.ledger.$queryRaw<unknown[]>`
    SELECT jsonb_build_object('id', i.id, 'name', i.name, 'digest', i.digest, 'virtualMiB', i."virtualMiB",
        'cmdline', i.cmdline, 'cloudInit', i."cloudInit", 'parts', i.parts) AS image,
      ${imagePeers(Prisma.sql`i.id`, Prisma.sql`${host}`)} AS peers
    FROM "Image" i WHERE i.id = ${id} AND i.state = 'ready'`;
  if (rows.length === 0) throw new BerthError('image-unknown', `There is no image ${id} that is ready`);
  const { image, peers } = IssuedImage.parse(rows[0]);
  return imageRef(deps, image, peers);
}
