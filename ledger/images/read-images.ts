import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageState } from '../../model/states.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';
import { usableBy } from './find-image.ts';

const withHosts = { hosts: { select: { hostId: true }, orderBy: { hostId: 'asc' } } } as const;

/** An image and the hosts that have it in their cache. */
export type ImageRecord = Prisma.ImageGetPayload<{ include: typeof withHosts }>;

/** Whose images are read: those that `owner` may use, or, for an operator, every owner's. */
export interface ImageViewer {
  owner: string;
  everyOwner: boolean;
}

/** Most rows of one name that the preferred one is chosen from. */
const maxNamesakes = 500;

/** A retired image is not shown any more. */
function visibleTo({ owner, everyOwner }: ImageViewer): Prisma.ImageWhereInput {
  const retired = { state: { not: 'retired' as const } };
  return everyOwner ? retired : { AND: [usableBy(owner), retired] };
}

/** An owner's own before others; of each the one that is ready, then the one that was named last. */
function preferredImage(owner: string, rows: ImageRecord[]): ImageRecord | undefined {
  const rank = (row: ImageRecord) => [row.ownerId === owner ? 0 : 1, row.state === 'ready' ? 0 : 1, -row.namedAt.getTime()];
  const compare = (a: number[], b: number[]) => a.map((value, index) => value - b[index]!).find((d) => d !== 0) ?? 0;
  return rows.toSorted((a, b) => compare(rank(a), rank(b)) || (a.id < b.id ? 1 : -1))[0];
}

/**
 * The image that a name stands for, in any state but retired. Throws not-found.
 * @param of `digest`: this one of the name; `owner`: of this owner alone
 */
export async function findImageByName(
  ledger: Ledger,
  viewer: ImageViewer,
  name: string,
  of: { digest?: string | undefined; owner?: string | undefined },
): Promise<ImageRecord> {
  const { digest, owner } = of;
  const named = { name, ...(digest === undefined ? {} : { digest }), ...(owner === undefined ? {} : { ownerId: owner }) };
  const rows = await ledger.image.findMany({
    where: { AND: [visibleTo(viewer), named] },
    orderBy: [{ namedAt: 'desc' }, { id: 'desc' }],
    take: maxNamesakes,
    include: withHosts,
  });
  const row = preferredImage(viewer.owner, rows);
  if (!row) throw new BerthError('not-found', `There is no image ${name}${digest === undefined ? '' : ` ${digest}`}`);
  return row;
}

export async function findImageById(tx: Transaction, id: string): Promise<ImageRecord> {
  return tx.image.findUniqueOrThrow({ where: { id }, include: withHosts });
}

export async function readImages(
  ledger: Ledger,
  viewer: ImageViewer,
  filter: { state?: ImageState | undefined },
  page: PageRequest,
): Promise<ImageRecord[]> {
  const { where, ...rest } = pageQuery(page, { state: filter.state });
  return ledger.image.findMany({ where: { AND: [visibleTo(viewer), where] }, ...rest, include: withHosts });
}

export async function readImageState(ledger: Ledger, id: string): Promise<ImageState> {
  const { state } = await ledger.image.findUniqueOrThrow({ where: { id }, select: { state: true } });
  return state;
}

/** Whose build it is; null: the site's own. Throws not-found unless this VM builds this image, or did. */
export async function findBuild(ledger: Ledger, imageId: string, vmId: string): Promise<string | null> {
  const image = await ledger.image.findFirst({ where: { id: imageId, buildVmId: vmId }, select: { ownerId: true } });
  if (!image) throw new BerthError('not-found', `There is no build of ${imageId} in ${vmId}`);
  return image.ownerId;
}

/** Throws not-found, also for an image of the site's own: none of them is built from a recipe. */
export async function findBuildOwner(ledger: Ledger, imageId: string): Promise<string> {
  const image = await ledger.image.findUnique({ where: { id: imageId }, select: { ownerId: true } });
  if (!image?.ownerId) throw new BerthError('not-found', `There is no build of an image ${imageId}`);
  return image.ownerId;
}
