import type { InputFile } from '../../contracts/host.ts';
import type { TaskStepArgs } from '../../contracts/ledger.ts';
import type { FileState } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { StoredTaskSpec, type TaskSpec } from '../../model/task.ts';
import { workflowId } from '../../model/temporal.ts';
import type { VmSpec } from '../../model/vm.ts';
import { fileUrl, urlSigner } from '../files/urls.ts';
import type { LedgerDeps } from '../transaction.ts';
import { type PlacedTask, type PlacedVm, readPlacedTask } from '../vms/placed-vms.ts';
import { vmSpecs } from '../vms/vm-specs.ts';

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

function inputFile(deps: LedgerDeps, wanted: TaskSpec['inputs'][number], files: Map<string, StoredFile>): InputFile {
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

async function readInputFiles(deps: LedgerDeps, spec: TaskSpec, owner: string): Promise<InputFile[]> {
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
 * The step arguments for the hosts of all VMs of a task, by node, with fresh URLs. Throws input-unavailable when an input's
 * file was deleted since the task was accepted, conflict when a VM has no host.
 */
export async function readTaskStepArgs(deps: LedgerDeps, id: TaskId): Promise<TaskStepArgs[]> {
  const task = await readPlacedTask(deps.ledger, id);
  const spec = StoredTaskSpec.parse(task.spec);
  const files = await readInputFiles(deps, spec, task.owner);
  return vmSpecs(deps, task).map((vm, node) => ({
    migrationWorkflowId: migrationOf(task.vms[node]!),
    ...buildStepArgs(deps, task, spec, files, vm, node),
  }));
}

const migrationOf = ({ id, migrating }: PlacedVm): string | null =>
  migrating === null ? null : workflowId.migration(id, migrating);

function buildStepArgs(
  deps: LedgerDeps,
  { id }: PlacedTask,
  spec: TaskSpec,
  files: InputFile[],
  vm: VmSpec,
  node: number,
): Omit<TaskStepArgs, 'migrationWorkflowId'> {
  // The log is written while the command runs, and the outputs after it: both URLs outlast the longest run.
  const sign = urlSigner(deps, spec.timeoutS);
  return {
    stageIn: {
      vm,
      inputs: files,
      limits: {
        outsideBytes: deps.control.BERTH_INPUT_URL_MAX_BYTES,
        outsideSeconds: deps.control.BERTH_INPUT_URL_MAX_SECONDS,
        allowInternal: deps.control.BERTH_ALLOW_INTERNAL_URLS,
      },
    },
    run: {
      vm,
      command: spec.command,
      env: { ...spec.env, BERTH_NODE: String(node), BERTH_NODES: String(spec.nodes), BERTH_TASK: id },
      timeoutS: spec.timeoutS,
      log: { url: sign('PUT', `/internal/tasks/${id}/log/${node}`), limitBytes: deps.control.BERTH_LOG_LIMIT_BYTES },
    },
    stageOut: {
      vm,
      node,
      patterns: spec.outputs,
      manifest: spec.outputManifest,
      uploadUrl: sign('POST', `/internal/tasks/${id}/outputs/${node}`),
      limits: { files: maxOutputFiles, bytes: vm.diskMiB * 2 ** 20, sparseBytes: vm.diskMiB * 2 ** 20 * maxSparseness },
    },
  };
}
