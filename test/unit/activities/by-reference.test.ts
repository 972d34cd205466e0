import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { expect, test, vi } from 'vitest';
import { byReference, type FetchStepArgs } from '../../../activities/host/by-reference.ts';
import type { HostActivities } from '../../../contracts/host.ts';
import type { HostCalls } from '../../../contracts/host-calls.ts';
import type { HostId, VmId } from '../../../model/ids.ts';
import type { VmSpec } from '../../../model/vm.ts';

const ref = {
  id: 'vm_1' as VmId,
  host: 'host-1' as HostId,
  home: 'host-2' as HostId,
  generation: 3,
  vcpus: 1,
  memoryMiB: 256,
  image: { id: 'image_1', name: 'debian' },
} as Parameters<FetchStepArgs>[0];
/** As the ledger has it, which the saga may be ahead of: where it says otherwise, the saga's word counts. */
const whole = { ...ref, home: 'host-1', network: { vni: 1 } } as unknown as VmSpec;

async function called(name: keyof HostCalls, argument: object, fetchStepArgs: FetchStepArgs, result?: unknown) {
  const act = vi.fn(async () => result);
  const calls = byReference({ [name]: act } as unknown as HostActivities, fetchStepArgs);
  const environment = new MockActivityEnvironment(undefined, { logger: new DefaultLogger('ERROR') });
  const answer = await environment.run(calls[name] as (argument: object) => Promise<unknown>, argument);
  return { args: act.mock.calls[0] as unknown[], answer };
}

test('an activity gets the VM that its host has fetched, where the saga says that it is', async () => {
  const fetchStepArgs = vi.fn(async () => ({ vm: whole }));
  const { args } = await called('ensureRunning', ref, fetchStepArgs);
  expect(args).toEqual([{ ...whole, home: 'host-2' }]);
  expect(fetchStepArgs).toHaveBeenCalledWith(ref, 'vm', expect.any(AbortSignal));
  const restored = await called('restoreVm', { vm: ref, diskHostAddress: '10.0.0.2' }, fetchStepArgs);
  expect(restored.args).toEqual([{ vm: { ...whole, home: 'host-2' }, diskHostAddress: '10.0.0.2' }]);
});

test('the steps of a task get what belongs to them', async () => {
  const stageIn = { inputs: [] };
  const staged = await called('stageIn', { vm: ref, limits: { outsideBytes: 1 } }, async () => ({ vm: whole, stageIn }));
  expect(staged.args).toMatchObject([{ vm: { id: 'vm_1' }, inputs: [], limits: { outsideBytes: 1 } }]);
  const run = { command: ['true'], env: {}, logUrl: 'http://api/log' };
  const ran = await called('runCommand', { vm: ref, timeoutS: 5, log: { limitBytes: 9 } }, async () => ({ vm: whole, run }));
  expect(ran.args).toMatchObject([{ command: ['true'], env: {}, timeoutS: 5, log: { url: 'http://api/log', limitBytes: 9 } }]);
});

test('the list of outputs is not handed back, only how many there are', async () => {
  const stageOut = { patterns: ['out/*'], uploadUrl: 'http://api/outputs' };
  const result = { outputs: Array.from({ length: 9000 }, () => ({})), bytes: 1, unmatched: [], endedAt: null };
  const { args, answer } = await called('stageOut', { vm: ref, node: 0 }, async () => ({ vm: whole, stageOut }), result);
  expect(args).toMatchObject([{ node: 0, patterns: ['out/*'], uploadUrl: 'http://api/outputs' }]);
  expect(answer).toEqual({ outputs: [], stored: 9000, bytes: 1, unmatched: [], endedAt: null });
});

test('what a saga of before sends whole is not fetched', async () => {
  const fetchStepArgs = vi.fn();
  const { args } = await called('ensureRunning', whole, fetchStepArgs);
  expect(args).toEqual([whole]);
  expect(fetchStepArgs).not.toHaveBeenCalled();
});
