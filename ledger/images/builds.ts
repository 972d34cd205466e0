import type { InputFile } from '../../contracts/host.ts';
import type { BuildOutcome, BuildPlacement, BuildRecord, BuildStepArgs } from '../../contracts/ledger.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Resources } from '../../model/host.ts';
import type { HostId, ImageId, OwnerId, VmId } from '../../model/ids.ts';
import type { ResolvedRecipe } from '../../model/image.ts';
import { signUrl } from '../../model/signed-url.ts';
import type { ImageState } from '../../model/states.ts';
import type { TimelineEntry } from '../../model/task.ts';
import type { VmSpec } from '../../model/vm.ts';
import { placeGang } from '../../scheduler/placement.ts';
import { freeAddress, macOf } from '../placement/addresses.ts';
import { addNetworks, type OwnerNetwork } from '../placement/owner-networks.ts';
import { addressSeed, lockPlacement } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { readPlacedVm, vmSpecs } from '../vms/vm-specs.ts';
import { buildCommand, buildFilePath } from './build-script.ts';
import { fileUrl, type ImageRow, type StoredPart, urlLifetimeS } from './image-refs.ts';

interface BuildRow {
  id: ImageId;
  name: string;
  digest: string;
  owner: OwnerId;
  state: ImageState;
  recipe: ResolvedRecipe;
  baseId: ImageId | null;
  cancelRequested: boolean;
  vmId: VmId;
  vmState: string;
  hostId: HostId | null;
  generation: number;
  each: Resources;
}

async function readBuild(tx: Transaction, id: ImageId): Promise<BuildRow> {
  const rows = await tx.$queryRaw<BuildRow[]>`
    SELECT i.id, i.name, i.digest, i."ownerId" AS owner, i.state, i.recipe, i."baseId",
      i."cancelRequestedAt" IS NOT NULL AS "cancelRequested", v.id AS "vmId", v.state AS "vmState", v."hostId", v.generation,
      jsonb_build_object('vcpus', v.vcpus, 'memoryMiB', v."memoryMiB", 'diskMiB', v."diskMiB" + v."overlayMiB") AS each
    FROM "Image" i JOIN "Vm" v ON v.id = i."buildVmId" WHERE i.id = ${id}`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no image ${id} with a build in the ledger`);
  return rows[0];
}

/** What the build saga needs of the image's row; that it asked is written down. Throws not-found. */
export async function loadBuild(deps: LedgerDeps, id: ImageId): Promise<BuildRecord> {
  await deps.ledger.image.updateMany({ where: { id, workflowAt: null }, data: { workflowAt: isoNow(deps) } });
  const { name, digest, owner, state, recipe, vmId, cancelRequested } = await readBuild(deps.ledger, id);
  const { base, sizeMiB, timeoutS } = recipe;
  return { id, name, digest, owner, state, base: base.kind, sizeMiB, timeoutS, vmId, cancelRequested };
}

async function ensureOwnerNetwork(deps: LedgerDeps, tx: Transaction, owner: OwnerId): Promise<OwnerNetwork | null> {
  const found = await tx.$queryRaw<{ cidr: string; taken: string[] }[]>`
    SELECT n.cidr, ARRAY(SELECT v.address FROM "Vm" v WHERE v."ownerId" = n."ownerId" AND v.state NOT IN ('pending', 'removed')
      AND v.address IS NOT NULL) AS taken FROM "Network" n WHERE n."ownerId" = ${owner}`;
  const networks = new Map<string, OwnerNetwork | null>();
  if (found[0] !== undefined) networks.set(owner, { cidr: found[0].cidr, taken: new Set(found[0].taken) });
  await addNetworks(tx, deps.control.BERTH_GUEST_SUPERNET, [owner], networks);
  return networks.get(owner) ?? null;
}

async function readPlacementHosts(tx: Transaction) {
  const hosts = await tx.host.findMany({ include: { images: { select: { imageId: true } } } });
  return hosts.map((host) => ({
    id: host.id,
    state: host.state,
    schedulable: host.schedulable,
    capacity: { vcpus: host.vcpus, memoryMiB: host.memoryMiB, diskMiB: host.diskMiB },
    used: { vcpus: host.usedVcpus, memoryMiB: host.usedMemoryMiB, diskMiB: host.usedDiskMiB },
    images: new Set(host.images.map(({ imageId }) => imageId)),
  }));
}

/**
 * Finds a host for the build's VM, by the rules of placement; or says why there is none at the moment. Decided once: a
 * repeat says the same. Throws conflict when the build has ended.
 */
export async function reserveBuild(deps: LedgerDeps, id: ImageId): Promise<BuildPlacement> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await readBuild(tx, id);
    if (row.state !== 'building') throw new BerthError('conflict', `Image ${id} is ${row.state}; it is not built any more`);
    if (row.vmState !== 'pending') return { placed: true, vm: await readBuildVmSpec(deps, tx, row) };
    const hosts = await readPlacementHosts(tx);
    const request = { id, nodes: 1, perVm: row.each, imageId: row.baseId, overtaken: 0 };
    const found = placeGang(request, hosts, new Map(hosts.map((host) => [host.id, host.used])));
    if ('refusal' in found) return { placed: false, refusal: found.refusal };
    const network = await ensureOwnerNetwork(deps, tx, row.owner);
    const address =
      network === null ? null : freeAddress(network.cidr, network.taken, addressSeed({ id: row.vmId, generation: 0 }));
    if (address === null) return { placed: false, refusal: { hosts: hosts.length, failed: { address: hosts.length } } };
    const host = found.hosts[0]!;
    await tx.$executeRaw`
      UPDATE "Vm" SET state = 'reserved', "hostId" = ${host}, "homeId" = ${host}, generation = generation + 1,
        address = ${address}, mac = ${macOf(address)} WHERE id = ${row.vmId}`;
    return { placed: true, vm: await readBuildVmSpec(deps, tx, row) };
  });
}

/** As the hosts need it: an uploaded disk is an image of that file alone, not to be booted. */
function bootImage(row: BuildRow, base: ImageRow): ImageRow {
  const { recipe } = row;
  if (recipe.base.kind === 'disk') {
    const { file, sha256, sizeBytes } = recipe.base;
    const parts = { disk: { file, sha256, sizeBytes } };
    return { id: row.id, name: row.name, digest: row.digest, virtualMiB: recipe.sizeMiB, cmdline: '', cloudInit: false, parts };
  }
  return base;
}

async function readBuildVmSpec(deps: LedgerDeps, tx: Transaction, row: BuildRow): Promise<VmSpec> {
  const placed = await readPlacedVm(tx, row.vmId);
  const [vm] = vmSpecs(deps, { ...placed, image: bootImage(row, placed.image) });
  return vm!;
}

function recipeInputs(deps: LedgerDeps, { files }: ResolvedRecipe): InputFile[] {
  return files.map(({ file, sha256, sizeBytes }, index) => ({
    path: buildFilePath(index),
    url: fileUrl(deps, file),
    source: 'repository',
    sizeBytes,
    sha256,
  }));
}

/** The orders for the build's host, with URLs signed for the time that the build may take. */
export async function issueBuildStepArgs(deps: LedgerDeps, id: ImageId): Promise<BuildStepArgs> {
  const row = await readBuild(deps.ledger, id);
  const { recipe } = row;
  const vm = await readBuildVmSpec(deps, deps.ledger, row);
  const { BERTH_SIGNING_KEY: key, BERTH_REPOSITORY_URL: base } = deps.signing;
  const lifetimeS = recipe.timeoutS + urlLifetimeS;
  const sign = (method: string, path: string) => signUrl(key, base, method, path, deps.clock(), lifetimeS);
  const baseMiB = row.baseId === null ? 0 : await readVirtualMiB(deps, row.baseId);
  return {
    stageIn: {
      vm,
      inputs: recipeInputs(deps, recipe),
      limits: { outsideBytes: 0, outsideSeconds: 1, allowInternal: false },
    },
    run: {
      vm,
      command: buildCommand(recipe, baseMiB),
      env: recipe.env,
      timeoutS: recipe.timeoutS,
      log: { url: sign('PUT', `/internal/images/${id}/builds/${row.vmId}/log`), limitBytes: deps.control.BERTH_LOG_LIMIT_BYTES },
    },
    store: {
      vm,
      from: recipe.base.kind,
      uploadUrl: sign('POST', `/internal/images/${id}/builds/${row.vmId}/parts`),
      sizeMiB: recipe.sizeMiB,
    },
  };
}

async function readVirtualMiB(deps: LedgerDeps, id: ImageId): Promise<number> {
  return (await deps.ledger.image.findUniqueOrThrow({ where: { id }, select: { virtualMiB: true } })).virtualMiB;
}

/** How far it is, for whoever asks. */
export async function recordBuildProgress(deps: LedgerDeps, id: ImageId, timeline: TimelineEntry[]): Promise<void> {
  const entries = timeline as unknown as Prisma.InputJsonArray;
  await deps.ledger.image.updateMany({ where: { id, state: 'building' }, data: { timeline: entries } });
}

/** Kernel and initrd are the base's files; the repository keeps a file for as long as an image names it. */
async function readImageParts(tx: Transaction, row: BuildRow, disk: StoredPart): Promise<Record<string, StoredPart>> {
  if (row.recipe.base.kind === 'disk') return { disk };
  const base = await tx.image.findUniqueOrThrow({ where: { id: row.baseId! }, select: { parts: true } });
  const { kernel, initrd } = base.parts as unknown as Record<string, StoredPart>;
  if (kernel === undefined || initrd === undefined)
    throw new BerthError('internal', `BUG: the base ${row.baseId} of image ${row.id} has no kernel`);
  return { disk, kernel, initrd };
}

/**
 * The end of a build, once: the image becomes usable whole, in one transaction, or stays unusable. Files that it does
 * not name go. Throws not-found, and conflict when it ended otherwise.
 */
export async function finishBuild(
  deps: LedgerDeps,
  id: ImageId,
  vmId: VmId,
  outcome: BuildOutcome,
  timeline: TimelineEntry[],
): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    await tx.$queryRaw`SELECT id FROM "Image" WHERE id = ${id} FOR UPDATE`;
    const row = await readBuild(tx, id);
    // Its owner may have had it built anew meanwhile, or given it up.
    if (row.vmId !== vmId || row.state === outcome.state || row.state === 'retired') return;
    if (row.state !== 'building')
      throw new BerthError('conflict', `Image ${id} is ${row.state} already; it cannot end as ${outcome.state}`);
    const parts = outcome.state === 'ready' ? await readImageParts(tx, row, outcome.disk) : {};
    const sizeBytes = Object.values(parts).reduce((sum, part) => sum + part.sizeBytes, 0);
    const kept = outcome.state === 'ready' ? outcome.disk.file : '';
    await tx.file.deleteMany({ where: { imageId: id, id: { not: kept } } });
    await tx.image.update({
      where: { id },
      data: {
        state: outcome.state,
        parts: parts as unknown as Prisma.InputJsonObject,
        sizeBytes: BigInt(sizeBytes),
        ...(outcome.state === 'ready' ? { virtualMiB: outcome.virtualMiB } : {}),
        error: outcome.state === 'failed' ? (outcome.error as unknown as Prisma.InputJsonObject) : Prisma.DbNull,
        timeline: timeline as unknown as Prisma.InputJsonArray,
        finishedAt: now,
      },
    });
  });
}
