import type { FetchedStep, FetchedStepArgs } from '../../contracts/host-calls.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { StoredTaskSpec } from '../../model/task.ts';
import { urlSigner } from '../files/urls.ts';
import type { SigningDeps } from '../transaction.ts';
import { readPlacedVm } from '../vms/placed-vms.ts';
import { specOf } from '../vms/vm-specs.ts';
import { readInputFiles } from './task-step-args.ts';

export interface StepArgsQuery {
  host: string;
  vm: string;
  generation: number;
  step: FetchedStep;
}

/**
 * What a host needs for a step on one of its VMs, with fresh URLs. Throws not-found for a VM that is not this host's;
 * stale-generation when it was placed anew since; conflict for a step that it does not have; input-unavailable.
 */
export async function readFetchedStepArgs(
  deps: SigningDeps,
  { host, vm: id, generation, step }: StepArgsQuery,
): Promise<FetchedStepArgs> {
  const placed = await readPlacedVm(deps.ledger, id as VmId);
  const row = placed.vms.find((one) => one.id === id);
  if (row === undefined) throw new BerthError('not-found', `There is no VM ${id}`);
  // First, because a VM that has moved is at another host by now, and its saga has to learn that.
  if (row.generation !== generation)
    throw new BerthError('stale-generation', `VM ${id} has generation ${row.generation} by now, not ${generation}`);
  if (row.hostId !== host && row.homeId !== host) throw new BerthError('not-found', `Host ${host} has no VM ${id}`);
  const ofVm = { vm: specOf(deps, placed, id as VmId) };
  if (step === 'vm') return ofVm;
  if (placed.task === null) throw new BerthError('conflict', `VM ${id} belongs to no task: it has no step ${step}`);
  return { ...ofVm, ...(await readOfTask(deps, placed.task, placed.vms.indexOf(row), step)) };
}

async function readOfTask(
  deps: SigningDeps,
  id: TaskId,
  node: number,
  step: Exclude<FetchedStep, 'vm'>,
): Promise<Omit<FetchedStepArgs, 'vm'>> {
  const task = await deps.ledger.task.findUniqueOrThrow({ where: { id }, select: { spec: true, ownerId: true } });
  const spec = StoredTaskSpec.parse(task.spec);
  if (step === 'stageIn') return { stageIn: { inputs: await readInputFiles(deps, spec, task.ownerId) } };
  // The log is written while the command runs, and the outputs after it: both URLs outlast the longest run.
  const sign = urlSigner(deps, spec.timeoutS);
  if (step === 'stageOut')
    return { stageOut: { patterns: spec.outputs, uploadUrl: sign('POST', `/internal/tasks/${id}/outputs/${node}`) } };
  const env = { ...spec.env, BERTH_NODE: String(node), BERTH_NODES: String(spec.nodes), BERTH_TASK: id };
  const logUrl = sign('PUT', `/internal/tasks/${id}/log/${node}`);
  return { run: { command: spec.command, env, logUrl, keepOutputs: spec.keepOutputs } };
}
