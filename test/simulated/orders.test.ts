import { expect, test } from 'vitest';
import { BerthError } from '../../model/errors.ts';
import { vm } from './loops.ts';
import { type Call, simulate } from './simulation.ts';

const hour = 3_600_000;
const day = 24 * hour;

/** A task of 64 nodes on a site whose API is away for a time. */
function answers(apiBackAtMs: number) {
  const vmIds = Array.from({ length: 64 }, (_, n) => `vm_01kb9xbcdrf5ar7dt0m1pkch${n}`);
  const vms = vmIds.map((id) => ({ ...vm, id, host: 'host-1' }));
  const limits = { outsideBytes: 8 * 2 ** 30, outsideSeconds: 600, allowInternal: false };
  const steps = vms.map((one, node) => ({
    migrationWorkflowId: null,
    stageIn: { vm: one, limits },
    run: { vm: one, timeoutS: 600, log: { limitBytes: 2 ** 24 } },
    stageOut: { vm: one, node, limits: { files: 10_000, bytes: 2 ** 30, sparseBytes: 2 ** 34 } },
  }));
  const fetching = (result: unknown) => (call: Call) => {
    if (call.nowMs < apiBackAtMs) throw new BerthError('orders-unavailable', 'the API does not answer');
    return result;
  };
  const lease = { kind: 'bestEffort', durationS: 600 };
  const spec = { nodes: 64, timeoutS: 600, outputs: ['out/*'], lease, onMissingOutput: 'fail', keepOutputs: false };
  const at = new Date(0).toISOString();
  const staged = { outputs: [], stored: 9000, bytes: 1, unmatched: [], endedAt: null };
  return {
    loadTask: { id: 'task_1', owner: 'owner_1', state: 'queued', vmIds, cancelRequested: false, spec },
    reserveTask: { placed: true, vms, term: null },
    advanceTask: steps,
    issueTaskStepArgs: ({ args }: Call) => steps.find(({ run }) => run.vm.id === args[1]),
    stageIn: fetching({ bytes: 0, image: 'cache' }),
    ensureRunning: { createMs: 1, bootMs: 1, boot: { kind: 'warm' } },
    runCommand: { exitCode: 0, signal: null, timedOut: false, startedAt: at, endedAt: at, logBytes: 0 },
    stageOut: staged,
    removeVm: undefined,
    setVmState: { state: 'removing', host: 'host-1', home: 'host-1', generation: 2, migrationWorkflowId: null },
    finishTask: [],
  } as Record<string, unknown>;
}

async function run(apiAwayMs: number, durationMs: number) {
  const start = Date.UTC(2026, 0, 1);
  const known = answers(start + apiAwayMs);
  const calls: Call[] = [];
  const simulated = await simulate(
    {
      type: 'runTask',
      id: 'task-task_1',
      args: ['task_1'],
      answer: (call) => {
        calls.push(call);
        const answer = known[call.name];
        return typeof answer === 'function' ? answer(call) : answer;
      },
    },
    durationMs,
  );
  return { simulated, calls };
}

test('a task of 64 nodes with 9,000 outputs each stays within the budget', async () => {
  const { simulated, calls } = await run(0, day);
  expect(simulated).toMatchObject({ end: 'completed', result: 'succeeded' });
  expect(simulated.largestPayload.bytes).toBeLessThan(256 * 1024);
  expect(simulated.longestHistory).toBeLessThan(10_000);
  const [, outcome] = calls.find(({ name }) => name === 'finishTask')!.args as [
    string,
    { storedNodes: number[]; outputs: unknown[] },
  ];
  expect([outcome.outputs, outcome.storedNodes.length]).toEqual([[], 64]);
});

test('an API that is away for minutes delays a step, however often it was tried', async () => {
  const { simulated } = await run(hour / 6, day);
  expect(simulated).toMatchObject({ end: 'completed', result: 'succeeded' });
  expect(simulated.longestHistory).toBeLessThan(10_000);
});
