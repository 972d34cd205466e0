import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError, type FieldError } from '../../model/errors.ts';
import { type FileId, type ImageId, newId, type OwnerId } from '../../model/ids.ts';
import {
  canonicalPackages,
  type ImageRecipe,
  imageLimits,
  type ResolvedBase,
  type ResolvedFile,
  type ResolvedRecipe,
  recipeDigest,
} from '../../model/image.ts';
import { lockFiles, type StoredFile } from '../files/lock-files.ts';
import { lockOwner } from '../owners/lock-owner.ts';
import type { Transaction } from '../transaction.ts';
import { findImage } from './find-image.ts';

/** The image in whose VM suites are installed, and whose kernel they get. */
const builderImage = 'debian-12';
/** Size of an image of a suite, or maximum of an uploaded disk, where the recipe has none. */
const defaultMiB = { suite: 2048, disk: 8192 } as const;
/** Memory limit of the converter of an uploaded disk. */
const importMemoryMiB = 512;

export interface BuildRequest {
  owner: OwnerId;
  recipe: ImageRecipe;
  nowMs: number;
}

interface ImageAcceptance {
  id: ImageId;
  /** `ready`: there is an image of this digest already. `building`: this request or an earlier one has begun it. */
  state: 'ready' | 'building';
}

const unknownFile = (pointer: string, file: string): FieldError => ({ pointer, detail: `there is no file ${file}` });

/** The recipe's files, locked against deletion until the image's row names them. Throws file-unknown. */
async function lockRecipeFiles(tx: Transaction, owner: string, recipe: ImageRecipe): Promise<Map<string, StoredFile>> {
  const wanted = recipe.files.map(({ file }, index) => ({ file, pointer: `/files/${index}/file` }));
  if ('file' in recipe.base) wanted.push({ file: recipe.base.file, pointer: '/base/file' });
  const found = await lockFiles(
    tx,
    owner,
    wanted.map(({ file }) => file),
  );
  const missing = wanted.filter(({ file }) => !found.has(file));
  if (missing.length > 0)
    throw new BerthError('file-unknown', `${missing.length} of the recipe's files do not exist`, {
      fields: missing.map(({ pointer, file }) => unknownFile(pointer, file)),
    });
  return found;
}

interface ResolvedBaseImage {
  resolved: ResolvedBase;
  /** The image that the build VM boots; null where nothing has to run. */
  image: ImageId | null;
  virtualMiB: number;
  cmdline: string;
}

async function resolveBase(
  tx: Transaction,
  owner: string,
  { base }: ImageRecipe,
  files: Map<string, StoredFile>,
): Promise<ResolvedBaseImage> {
  if ('file' in base) {
    const { sha256, sizeBytes } = files.get(base.file)!;
    const resolved = { kind: 'disk', file: base.file as FileId, sha256, sizeBytes } as const;
    return { resolved, image: null, virtualMiB: defaultMiB.disk, cmdline: '' };
  }
  const found = await findImage(tx, owner, 'suite' in base ? builderImage : base.image, '/base');
  if (found.parts.kernel === undefined)
    throw new BerthError('bad-request', `The image ${found.name} boots by its disk: it has no kernel to build on`, {
      fields: [{ pointer: '/base', detail: 'expected an image with a kernel' }],
    });
  const { id: image, digest, cmdline } = found;
  if ('suite' in base)
    return { resolved: { kind: 'suite', suite: base.suite, image, digest }, image, virtualMiB: defaultMiB.suite, cmdline };
  return { resolved: { kind: 'image', image, digest }, image, virtualMiB: found.virtualMiB, cmdline };
}

function resolveRecipe(recipe: ImageRecipe, base: ResolvedBaseImage, found: Map<string, StoredFile>): ResolvedRecipe {
  const sizeMiB = recipe.sizeMiB ?? base.virtualMiB;
  if (base.resolved.kind === 'image' && sizeMiB < base.virtualMiB)
    throw new BerthError('bad-request', `A disk does not shrink: the base has ${base.virtualMiB} MiB`, {
      fields: [{ pointer: '/sizeMiB', detail: `found ${sizeMiB}; expected ${base.virtualMiB} or more` }],
    });
  const files = recipe.files.map(({ path, mode, file }): ResolvedFile => {
    const { sha256, sizeBytes } = found.get(file)!;
    return { path, mode, file, sha256, sizeBytes };
  });
  const { commands, env, cloudInit, resources, timeoutS } = recipe;
  return {
    base: base.resolved,
    packages: canonicalPackages(recipe.packages),
    files,
    commands,
    env,
    sizeMiB,
    cloudInit,
    resources,
    timeoutS,
  };
}

/** Exact, because the caller's lock serializes an owner's accepts of images. */
async function refuseTooManyImages(tx: Transaction, owner: string): Promise<void> {
  const [images, builds] = await Promise.all([
    tx.image.count({ where: { ownerId: owner, state: { not: 'retired' } } }),
    tx.image.count({ where: { ownerId: owner, state: 'building' } }),
  ]);
  if (images >= imageLimits.images)
    throw new BerthError('quota-exceeded', `This owner has ${images} images, of at most ${imageLimits.images}; delete some`);
  if (builds >= imageLimits.builds)
    throw new BerthError('quota-exceeded', `This owner has ${builds} builds under way, of at most ${imageLimits.builds}`);
}

/** Size of the data disk: its files with the file system's overhead, or the image itself where a suite is installed. */
function dataDiskMiB(recipe: ResolvedRecipe): number {
  if (recipe.base.kind === 'suite') return recipe.sizeMiB;
  if (recipe.base.kind === 'disk') return Math.ceil(recipe.base.sizeBytes / 2 ** 20);
  const bytes = recipe.files.reduce((sum, { sizeBytes }) => sum + sizeBytes + 4096, 0);
  return 64 + Math.ceil((bytes / 2 ** 20) * 1.1);
}

/** Inserts the VM in which the image is built. Its disk counts twice: for the overlay that grows, and for the flat copy of it. */
async function insertBuildVm(
  tx: Transaction,
  owner: string,
  image: string,
  base: ResolvedBaseImage,
  recipe: ResolvedRecipe,
  at: Date,
) {
  const id = newId('vm');
  const size =
    recipe.base.kind === 'disk'
      ? { vcpus: 1, memoryMiB: importMemoryMiB, overlayMiB: recipe.sizeMiB }
      : {
          ...recipe.resources,
          overlayMiB: 2 * Math.max(recipe.sizeMiB, base.virtualMiB),
          rootMiB: recipe.base.kind === 'image' ? recipe.sizeMiB : null,
        };
  const imageId = base.image ?? image;
  const row = { ownerId: owner, name: 'build', imageId, diskMiB: dataDiskMiB(recipe), state: 'pending' as const, createdAt: at };
  await tx.vm.create({ data: { id, ...row, ...size } });
  return id;
}

/**
 * Accepts a recipe within the caller's transaction. An image that was built before is found by its digest, and its name
 * refers to it from now on; a failed one is built again; a new one gets its row and a VM that waits for a host.
 *
 * Throws image-unknown, file-unknown, bad-request (a size below the base's) and quota-exceeded.
 */
export async function acceptImage(tx: Transaction, request: BuildRequest): Promise<ImageAcceptance> {
  const { owner, recipe } = request;
  const at = new Date(request.nowMs);
  await lockOwner(tx, 'images', owner);
  const files = await lockRecipeFiles(tx, owner, recipe);
  const base = await resolveBase(tx, owner, recipe, files);
  const resolved = resolveRecipe(recipe, base, files);
  const digest = recipeDigest(owner, resolved);
  const known = await tx.image.findFirst({
    where: { ownerId: owner, name: recipe.name, digest, state: { not: 'retired' } },
    select: { id: true, state: true, cancelRequestedAt: true },
  });
  if (known?.state === 'building' && known.cancelRequestedAt !== null)
    throw new BerthError('conflict', `The build of ${recipe.name} ${digest} is being cancelled; ask again when that is over`);
  if (known !== null && known.state !== 'failed') {
    await tx.image.update({ where: { id: known.id }, data: { namedAt: at } });
    return { id: known.id as ImageId, state: known.state === 'ready' ? 'ready' : 'building' };
  }
  await refuseTooManyImages(tx, owner);
  const id = (known?.id ?? newId('image')) as ImageId;
  const fields = {
    state: 'building' as const,
    recipe: resolved as unknown as Prisma.InputJsonObject,
    virtualMiB: resolved.sizeMiB,
    cmdline: base.cmdline,
    cloudInit: resolved.cloudInit,
    sizeBytes: 0n,
    parts: {},
    error: Prisma.DbNull,
    baseId: base.image,
    namedAt: at,
    workflowAt: null,
    cancelRequestedAt: null,
    timeline: [],
    startedAt: at,
    finishedAt: null,
  };
  if (known === null)
    await tx.image.create({ data: { id, name: recipe.name, digest, ownerId: owner, createdAt: at, ...fields, buildVmId: null } });
  else await tx.image.update({ where: { id }, data: fields });
  const buildVmId = await insertBuildVm(tx, owner, id, base, resolved, at);
  await tx.image.update({ where: { id }, data: { buildVmId } });
  return { id, state: 'building' };
}
