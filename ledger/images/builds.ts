import type { InputFile } from '../../contracts/host.ts';
import type { BuildPlacement, BuildRecord, BuildStepArgs } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import type { ResolvedRecipe } from '../../model/image.ts';
import type { VmSpec } from '../../model/vm.ts';
import { placeGang } from '../../scheduler/placement.ts';
import { fileUrl, urlSigner } from '../files/urls.ts';
import { freeAddress, macOf } from '../placement/addresses.ts';
import { addressSeed } from '../placement/assign-addresses.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { ensureNetwork, readAddresses } from '../placement/owner-networks.ts';
import { readPlacementHosts } from '../placement/read-hosts.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { readPlacedVm } from '../vms/placed-vms.ts';
import { specOf } from '../vms/vm-specs.ts';
import { type BuildRow, readBuild } from './build-row.ts';
import { buildCommand, buildFilePath } from './build-script.ts';
import type { ImageRow } from './image-refs.ts';

/** Reads the build for its workflow, and records that the workflow runs. Throws not-found. */
export async function loadBuild(deps: LedgerDeps, id: ImageId): Promise<BuildRecord> {
  await deps.ledger.image.updateMany({ where: { id, workflowAt: null }, data: { workflowAt: isoNow(deps) } });
  const { name, owner, state, recipe, vmId, vmState, cancelRequested } = await readBuild(deps.ledger, id);
  const begun = !['pending', 'reserved', 'removed'].includes(vmState);
  const { base, timeoutS } = recipe;
  return { id, name, owner, state, base: base.kind, timeoutS, vmId, begun, cancelRequested };
}

/**
 * Places the build's VM by the rules of placement, or returns why no host can take it now. A repeat finds it placed. Throws
 * conflict when the build has ended.
 */
export async function reserveBuild(deps: LedgerDeps, id: ImageId): Promise<BuildPlacement> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await readBuild(tx, id);
    if (row.state !== 'building') throw new BerthError('conflict', `Image ${id} is ${row.state}; it is not built any more`);
    if (row.vmState !== 'pending') return { placed: true, vm: await readBuildVmSpec(deps, tx, row) };
    const hosts = await readPlacementHosts(tx, row.baseId === null ? [] : [row.baseId]);
    const request = { id, nodes: 1, perVm: row.each, imageId: row.baseId, overtaken: 0 };
    const found = placeGang(request, hosts, new Map(hosts.map((host) => [host.id, host.used])));
    if ('refusal' in found) return { placed: false, refusal: found.refusal };
    const cidr = await ensureNetwork(tx, deps.control.BERTH_GUEST_SUPERNET, row.owner);
    const seed = addressSeed({ id: row.vmId, generation: 0 });
    const address = cidr === null ? null : freeAddress(cidr, await readAddresses(tx, row.owner), seed);
    if (address === null) return { placed: false, refusal: { hosts: hosts.length, failed: { address: hosts.length } } };
    const host = found.hosts[0]!;
    await tx.$executeRaw`
      UPDATE "Vm" SET state = 'reserved', "hostId" = ${host}, "homeId" = ${host}, generation = generation + 1,
        address = ${address}, mac = ${macOf(address)} WHERE id = ${row.vmId}`;
    return { placed: true, vm: await readBuildVmSpec(deps, tx, row) };
  });
}

/** The image that the build VM's host fetches: of an uploaded disk that file alone, which is not booted. */
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
  return specOf(deps, { ...placed, image: bootImage(row, placed.image) }, row.vmId);
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

/** The step arguments for the build's host, with URLs that are valid for the time that the build may take. */
export async function issueBuildStepArgs(deps: LedgerDeps, id: ImageId): Promise<BuildStepArgs> {
  const row = await readBuild(deps.ledger, id);
  const { recipe } = row;
  const vm = await readBuildVmSpec(deps, deps.ledger, row);
  const sign = urlSigner(deps, recipe.timeoutS);
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
