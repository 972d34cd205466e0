import { BerthError } from '../../model/errors.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import type { ContentRef, ImageRef } from '../../model/vm.ts';
import { fileUrl } from '../files/urls.ts';
import type { LedgerDeps } from '../transaction.ts';

/** A part of an image: a file of the repository. */
export interface StoredPart {
  file: string;
  sha256: string;
  sizeBytes: number;
}

export interface ImageRow {
  id: ImageId;
  name: string;
  digest: string;
  virtualMiB: number;
  cmdline: string;
  cloudInit: boolean;
  parts: Record<string, StoredPart>;
}

/** A host, as a peer or a destination of an image. */
export interface ImageHolder {
  id: HostId;
  address: string;
  provider: string;
  /** The host is up, and has the image in its cache. */
  hasImage: boolean;
}

function blobRef(deps: LedgerDeps, part: StoredPart | undefined): ContentRef | null {
  if (part === undefined) return null;
  return { sha256: part.sha256, sizeBytes: part.sizeBytes, url: fileUrl(deps, part.file) };
}

/** An image as a host fetches it, with fresh URLs and the peers that have it now. Throws image-unknown. */
export function imageRef(deps: LedgerDeps, image: ImageRow, hosts: ImageHolder[], here: HostId): ImageRef {
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
  const rows = await deps.ledger.$queryRaw<{ image: ImageRow; hosts: ImageHolder[] }[]>`
    SELECT jsonb_build_object('id', i.id, 'name', i.name, 'digest', i.digest, 'virtualMiB', i."virtualMiB",
        'cmdline', i.cmdline, 'cloudInit', i."cloudInit", 'parts', i.parts) AS image,
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', h.id, 'address', h.address, 'provider', h.provider,
        'hasImage', h.state = 'up' AND EXISTS (SELECT FROM "HostImage" x WHERE x."hostId" = h.id AND x."imageId" = i.id))),
        '[]') FROM "Host" h) AS hosts
    FROM "Image" i WHERE i.id = ${id} AND i.state = 'ready'`;
  const row = rows[0];
  if (row === undefined) throw new BerthError('image-unknown', `There is no image ${id} that is ready`);
  return imageRef(deps, row.image, row.hosts, host);
}
