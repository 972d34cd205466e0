import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type ImageId, newId } from '../../model/ids.ts';
import { imageRow, publishBase, startBuild } from './build-site.ts';
import { expectEmptySite, tracesOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyRun, type Fault } from './faults.ts';

vi.setConfig({ maxConcurrency: 12, testTimeout: 240_000 });

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({
    run: (_, argv) => ({
      exitCode: argv.at(-1) === 'fail' ? 3 : 0,
      durationMs: argv.at(-1) === 'endless' ? endless : 50,
      log: 'done\n',
      files: {},
    }),
  });
});
afterAll(() => site.stop());

const call = (name: string, nth = 1): Call => ({ name, nth });

/** The calls of a build without faults, in their order. */
const forward: Call[] = [
  call('loadBuild'),
  call('reserveBuild'),
  call('recordBuildProgress', 1),
  call('issueBuildStepArgs', 1),
  call('stageIn'),
  call('recordImageCached'),
  call('setVmState', 1),
  call('recordBuildProgress', 2),
  call('ensureRunning'),
  call('setVmState', 2),
  call('recordBuildProgress', 3),
  call('issueBuildStepArgs', 2),
  call('runCommand'),
  call('setVmState', 3),
  call('recordBuildProgress', 4),
  call('shutDownGuest'),
  call('recordBuildProgress', 5),
  call('issueBuildStepArgs', 3),
  call('storeImage'),
];
const backward: Call[] = [
  call('finishBuild'),
  call('setVmState', 4),
  call('removeDomain'),
  call('removeDisks'),
  call('releaseVms'),
];
const cleanRun = [...forward, ...backward];
/** The last call at which a cancellation is certain to take effect before the verdict. */
const lastCancellable = forward.findIndex(({ name }) => name === 'runCommand');

/** The states in which a build may end after this fault. */
function legalEnds({ name, nth }: Call, fault: Fault): string[] {
  const place = forward.findIndex((call) => call.name === name && call.nth === nth);
  const isForward = place >= 0;
  if (fault.startsWith('refused')) return isForward && name !== 'loadBuild' ? ['failed'] : ['ready'];
  if (fault.startsWith('cancelled')) {
    if (!isForward) return ['ready'];
    return place <= lastCancellable ? ['failed'] : ['failed', 'ready'];
  }
  return ['ready'];
}

/**
 * After any fault: the image is complete and usable, or not usable at all; nothing of its VM remains; its recipe ran at
 * most once.
 */
async function expectWholeOrNothing(id: ImageId): Promise<void> {
  const image = await imageRow(site, id);
  const vm = await site.ledger.vm.findUniqueOrThrow({ where: { id: image.buildVmId! } });
  expect(vm.state).toBe('removed');
  expect(tracesOf(site, [vm.id])).toEqual([]);
  for (const host of site.hosts) expect(host.jobsStarted.get(vm.id) ?? 0).toBeLessThanOrEqual(1);
  if (image.state === 'ready') {
    expect(image.parts).toMatchObject({ disk: { sizeBytes: expect.any(Number) }, kernel: {}, initrd: {} });
    expect(Number(image.sizeBytes)).toBeGreaterThan(0);
  } else expect(image).toMatchObject({ state: 'failed', parts: {}, sizeBytes: 0n, error: { code: expect.any(String) } });
}

test('the matrix covers every call of a build', async () => {
  const build = await startBuild(site);
  expect(await build.ended()).toBe('ready');
  const recorded = site.faults.callsOf(build.workflowId).map(({ name, nth }) => `${name} ${nth}`);
  expect(recorded.sort()).toEqual(cleanRun.map(({ name, nth }) => `${name} ${nth}`).sort());
});

test.concurrent.each(everyRun(cleanRun))('$at: $what', async ({ calls, fault }) => {
  const build = await startBuild(site, {}, (workflow) => site.faults.plan(workflow, calls, fault));
  const state = await build.ended();
  expect(site.faults.fired(build.workflowId)).toBe(true);
  const before = await imageRow(site, build.id);
  if (fault === 'late') await site.faults.runLate(build.workflowId);
  expect(await imageRow(site, build.id)).toEqual(before);
  expect(before.state).toBe(state);
  for (const at of calls) expect(legalEnds(at, fault)).toContain(state);
  await expectWholeOrNothing(build.id);
});

describe('a build', () => {
  test('that fails reports its error, and is built again when it is requested again', async () => {
    const recipe = { base: { image: await publishBase(site) }, commands: ['fail'] };
    const owner = newId('owner');
    const build = await startBuild(site, recipe, undefined, owner);
    expect(await build.ended()).toBe('failed');
    expect((await imageRow(site, build.id)).error).toMatchObject({ code: 'build-failed' });
    await expectWholeOrNothing(build.id);
    const again = await startBuild(site, { ...recipe, name: build.name }, undefined, owner);
    expect(again.id).toBe(build.id);
    expect(await again.ended()).toBe('failed');
  });

  test('that exceeds the time limit of its recipe ends, and leaves nothing', async () => {
    const build = await startBuild(site, { commands: ['endless'], timeoutS: 30 });
    expect(await build.ended()).toBe('failed');
    expect((await imageRow(site, build.id)).error).toMatchObject({ code: 'build-timeout' });
    await expectWholeOrNothing(build.id);
  });

  test('of an uploaded disk runs nothing, and is refused when the file is not a disk image', async () => {
    const disk = await startBuild(site, { base: { disk: 'qcow2 100' } });
    expect(await disk.ended()).toBe('ready');
    expect(await imageRow(site, disk.id)).toMatchObject({ virtualMiB: 100, parts: { disk: {} } });
    const junk = await startBuild(site, { base: { disk: 'a poem' } });
    expect(await junk.ended()).toBe('failed');
    expect((await imageRow(site, junk.id)).error).toMatchObject({ code: 'image-refused' });
    const large = await startBuild(site, { base: { disk: 'raw 9000' } });
    expect(await large.ended()).toBe('failed');
    for (const host of site.hosts) for (const one of [disk, junk, large]) expect(host.jobsStarted.has(one.vmId)).toBe(false);
  });

  test('of a suite produces an image with the contents of its data disk', async () => {
    const build = await startBuild(site, { base: { suite: 'bookworm' } });
    expect(await build.ended()).toBe('ready');
    await expectWholeOrNothing(build.id);
  });
});

test('afterwards the site is empty', () => expectEmptySite(site));
