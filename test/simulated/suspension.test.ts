import { expect, test } from 'vitest';
import { BerthError } from '../../model/errors.ts';
import { forever, simulate } from './simulation.ts';

const day = 24 * 3_600_000;
const refuse = (): never => {
  throw new BerthError('disk-full', 'there is no space for its memory');
};

/** The VM moved to host-2 without its disks, which host-1 has, before the plan preempts its task. */
const vm = { id: 'vm_1', host: 'host-2', home: 'host-1', generation: 2, image: { id: 'image_1' } };
const location = { host: 'host-2', home: 'host-1', generation: 2, migrationWorkflowId: null };

test('a node that could not be suspended is restored with its disks where they are', async () => {
  const restored: unknown[] = [];
  let suspending = false;
  await simulate(
    {
      type: 'runTask',
      id: 'task-task_1',
      args: ['task_1'],
      signals: [{ name: 'leaseOrderChanged', everyMs: day / 2 }],
      answer: ({ name, args }) => {
        const answers: Record<string, () => unknown> = {
          loadTask: () => ({
            id: 'task_1',
            owner: 'owner_1',
            state: 'queued',
            vmIds: ['vm_1'],
            cancelRequested: false,
            spec: { nodes: 1, timeoutS: 7 * 86_400, outputs: [], lease: { kind: 'bestEffort', durationS: 7 * 86_400 } },
          }),
          reserveTask: () => ({ placed: true, vms: [vm], term: null }),
          advanceTask: () => [],
          issueTaskStepArgs: () => ({ stageIn: { vm }, run: { vm }, stageOut: { vm }, migrationWorkflowId: null }),
          stageIn: () => ({ bytes: 0, image: 'cache' }),
          ensureRunning: () => ({ createMs: 1, bootMs: 1, boot: { kind: 'warm' } }),
          runCommand: () => forever,
          loadLeaseOrder: () => 'suspend',
          loadVmLocation: () => ({ ...location, state: suspending ? 'suspending' : 'running' }),
          beginSuspension: () => {
            suspending = true;
            return { vm: { ...vm, generation: 3 }, diskHostAddress: '10.77.0.1' };
          },
          suspendVm: refuse,
          restoreVm: () => void restored.push(args[0]),
          rollBackSuspension: () => [],
          recordLeaseResumed: () => [],
        };
        return answers[name]!();
      },
    },
    day,
  );
  expect(restored).toEqual([{ vm: { ...vm, generation: 3 }, diskHostAddress: '10.77.0.1' }]);
});
