import type { InputFile } from '../../contracts/host.ts';
import type { VmRef } from '../../contracts/host-calls.ts';
import type { TaskStepArgs } from '../../contracts/ledger.ts';
import type { FileState } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { StoredTaskSpec, type TaskSpec } from '../../model/task.ts';
import { workflowId } from '../../model/temporal.ts';
import { fileUrl } from '../files/urls.ts';
import type { LedgerDeps, SigningDeps } from '../transaction.ts';
import { type PlacedVm, readPlacedTask } from '../vms/placed-vms.ts';
import { vmRefs } from '../vms/vm-specs.ts';

/** Maximum number of output files of one VM. Its data disk bounds their bytes. */
const maxOutputFiles = 10_000;

/** How much larger than the disk its outputs may be by their holes, which are sent as zeros. */
const maxSparseness = 16;

interface StoredFile {
  id: string;
  state: FileState;
  sizeBytes: bigint;
  sha256: string | null;
}

function inputFile(deps: SigningDeps, wanted: TaskSpec['inputs'][number], files: Map<string, StoredFile>): InputFile {
  if (wanted.file === undefined)
    return {
      path: wanted.path,
      url: wanted.url!,
      source: 'outside',
      sizeBytes: null,
      sha256: wanted.sha256 ?? null,
      mode: wanted.mode,
    };
  const file = files.get(wanted.file);
  if (file === undefined || file.state !== 'ready')
    throw new BerthError('input-unavailable', `The input ${wanted.path} names the file ${wanted.file}, which was deleted since`);
  return {
    path: wanted.path,
    url: fileUrl(deps, file.id),
    source: 'repository',
    sizeBytes: Number(file.sizeBytes),
    sha256: file.sha256,
    mode: wanted.mode,
  };
}

/** The inputs of a task, with fresh URLs. Throws input-unavailable. */
export async function readInputFiles(deps: SigningDeps, spec: TaskSpec, owner: string): Promise<InputFile[]> {
  const ids = spec.inputs.flatMap(({ file }) => (file === undefined ? [] : [file]));
  const files =
    ids.length === 0
      ? []
      : await deps.ledger.file.findMany({
          where: { id: { in: ids }, ownerId: owner },
          select: { id: true, state: true, sizeBytes: true, sha256: true },
        });
  const byId = new Map<string, StoredFile>(files.map((file) => [file.id, file]));
  return spec.inputs.map((wanted) => inputFile(deps, wanted, byId));
}

/** The step arguments for one VM's host; throws what readTaskStepArgs does. */
export async function issueTaskStepArgs(deps: LedgerDeps, id: TaskId, vmId: VmId): Promise<TaskStepArgs> {
  const args = (await readTaskStepArgs(deps, id)).find(({ run }) => run.vm.id === vmId);
  if (args === undefined) throw new BerthError('not-found', `Task ${id} has no VM ${vmId}`);
  return args;
}

/**
 * The step arguments for the hosts of all VMs of a task, by node; what is large, or expires, the hosts fetch themselves
 * (fetched-step-args.ts). Throws conflict when a VM has no host.
 */
export async function readTaskStepArgs(deps: LedgerDeps, id: TaskId): Promise<TaskStepArgs[]> {
  const task = await readPlacedTask(deps.ledger, id);
  const spec = StoredTaskSpec.parse(task.spec);
  return vmRefs(task).map((vm, node) => ({
    migrationWorkflowId: migrationOf(task.vms[node]!),
    ...buildStepArgs(deps, spec, vm, node, task.vms[node]!.diskMiB * 2 ** 20),
  }));
}

const migrationOf = ({ id, migrating }: PlacedVm): string | null =>
  migrating === null ? null : workflowId.migration(id, migrating);

function buildStepArgs(
  { control }: LedgerDeps,
  { timeoutS, outputManifest }: TaskSpec,
  vm: VmRef,
  node: number,
  diskBytes: number,
): Omit<TaskStepArgs, 'migrationWorkflowId'> {
  return {
    stageIn: {
      vm,
      limits: {
        outsideBytes: control.BERTH_INPUT_URL_MAX_BYTES,
        outsideSeconds: control.BERTH_INPUT_URL_MAX_SECONDS,
        allowInternal: control.BERTH_ALLOW_INTERNAL_URLS,
      },
    },
    run: { vm, timeoutS, log: { limitBytes: control.BERTH_LOG_LIMIT_BYTES } },
    stageOut: {
      vm,
      node,
      manifest: outputManifest,
      limits: { files: maxOutputFiles, bytes: diskBytes, sparseBytes: diskBytes * maxSparseness },
    },
  };
}
