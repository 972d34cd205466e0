import { beforeEach, describe, expect, test } from 'vitest';
import { acceptImage } from '../../ledger/images/accept-image.ts';
import { publishImages } from '../../ledger/images/publish-images.ts';
import { retireImages } from '../../ledger/images/retire-images.ts';
import { ledgerError, sqlState } from '../../ledger/ledger-error.ts';
import { type HostId, type ImageId, newId, type OwnerId, type VmId } from '../../model/ids.ts';
import { ImageRecipe } from '../../model/image.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, roomy, usage, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let alice: OwnerId;
let bob: OwnerId;
beforeEach(async () => {
  await empty(fixture);
  alice = (await addOwner(fixture, 'alice')) as OwnerId;
  bob = (await addOwner(fixture, 'bob')) as OwnerId;
  await addImage(fixture, 'debian-12', 100);
});

const recipe = (more: object = {}) => ImageRecipe.parse({ name: 'mine', base: { image: 'debian-12' }, ...more });
const order = (owner: OwnerId, more: object = {}) => ({ owner, recipe: recipe(more), nowMs: fixture.now });
const build = async (owner: OwnerId, more: object = {}): Promise<ImageId> =>
  (await fixture.ledger.$transaction((tx) => acceptImage(tx, order(owner, more)))).id;
const row = (id: ImageId) => fixture.ledger.image.findUniqueOrThrow({ where: { id } });
const vmOf = async (id: ImageId): Promise<VmId> => (await row(id)).buildVmId as VmId;
const disk = { file: 'file_built', sha256: 'b'.repeat(64), sizeBytes: 77 };
const ready = { state: 'ready', disk, virtualMiB: 100 } as const;
const failed = { state: 'failed', error: { code: 'build-failed', message: 'no' } } as const;
const finish = async (id: ImageId, outcome: typeof ready | typeof failed) => {
  const vm = await vmOf(id);
  await fixture.activities.finishBuild(id, vm, outcome, []);
  await fixture.activities.releaseVms([vm]);
};
const arrive = (id: string) => fixture.activities.registerHost(hostFacts(id, roomy));

describe('a build', () => {
  test('is placed once, and counts against its host until it is released', async () => {
    await arrive('host-1');
    const id = await build(alice);
    const [first, second] = [await fixture.activities.reserveBuild(id), await fixture.activities.reserveBuild(id)];
    expect(first).toMatchObject({
      placed: true,
      vm: { host: 'host-1', generation: 1, owner: alice, image: { name: 'debian-12' } },
    });
    expect(second.placed && first.placed && second.vm.address === first.vm.address).toBe(true);
    for (const { said, summed } of await usage(fixture)) expect(said).toEqual(summed);
    await finish(id, ready);
    for (const { said } of await usage(fixture)) expect(said).toEqual([0, 0, 0]);
  });

  test('waits, with the reason of each host, while there is no capacity', async () => {
    await fixture.activities.registerHost(hostFacts('small', { vcpus: 8, memoryMiB: 300, diskMiB: 100_000 }));
    expect(await fixture.activities.reserveBuild(await build(alice))).toEqual({
      placed: false,
      refusal: { hosts: 1, failed: { memory: 1 } },
    });
  });

  test('becomes usable as a whole, with the kernel of its base, in one step', async () => {
    const id = await build(alice);
    expect((await failure(accept(fixture, alice, { image: 'mine' }))).code).toBe('image-unknown');
    await finish(id, ready);
    const parts = { disk, kernel: { file: 'file_kernel' }, initrd: { file: 'file_initrd' } };
    expect(await row(id)).toMatchObject({ state: 'ready', sizeBytes: 97n, parts });
    await accept(fixture, alice, { image: 'mine' });
    expect((await failure(accept(fixture, bob, { image: 'mine' }))).code).toBe('image-unknown');
  });

  test('ends once: a later end, or that of an earlier attempt, changes nothing', async () => {
    const id = await build(alice);
    const first = await vmOf(id);
    await finish(id, failed);
    await build(alice);
    await fixture.activities.finishBuild(id, first, failed, []);
    expect((await row(id)).state).toBe('building');
    await finish(id, ready);
    await fixture.activities.finishBuild(id, await vmOf(id), ready, []);
    expect((await failure(fixture.activities.finishBuild(id, await vmOf(id), failed, []))).code).toBe('conflict');
  });

  test('never becomes usable without a disk, or with a kernel and no initrd', async () => {
    const id = await build(alice);
    const refused = async (parts: object, sizeBytes: number) =>
      sqlState(await failure(fixture.ledger.image.update({ where: { id }, data: { state: 'ready', parts, sizeBytes } })));
    expect(await refused({}, 0)).toBe('23514');
    expect(await refused({ disk, kernel: disk }, 1)).toBe('23514');
    expect(await refused({ disk }, 0)).toBe('23514');
  });

  test('prevents migrations and suspensions of its VM', async () => {
    await arrive('host-1');
    const id = await build(alice);
    await fixture.activities.reserveBuild(id);
    const vm = await vmOf(id);
    for (const state of ['creating', 'running'] as const) await fixture.activities.setVmState(vm, state);
    for (const state of ['migrating', 'suspending', 'paused'] as const)
      expect((await failure(fixture.activities.setVmState(vm, state))).code).toBe('conflict');
  });

  test('has step arguments in which no text of the recipe is text of the script', async () => {
    await arrive('host-1');
    const evil = '$(touch /owned); "quoted" \'too\'';
    const id = await build(alice, { commands: [evil], packages: ['b-b', 'a-a'], env: { X: evil } });
    await fixture.activities.reserveBuild(id);
    const { run, store } = await fixture.activities.issueBuildStepArgs(id);
    expect(run.command.slice(0, 2)).toEqual(['/bin/sh', '-c']);
    expect(run.command[2]).not.toContain('owned');
    expect(run.command.slice(3)).toEqual(['berth-build', '0', '2', 'a-a', 'b-b', '0', evil]);
    expect(run.env).toEqual({ X: evil });
    expect(store).toMatchObject({ from: 'image', sizeMiB: 100 });
  });
});

describe('an image', () => {
  test('exists once for each digest, also after a thousand requests', async () => {
    await build(alice);
    const { digest } = await fixture.ledger.image.findFirstOrThrow({ where: { ownerId: alice } });
    const again = {
      id: newId('image'),
      name: 'mine',
      digest,
      ownerId: alice,
      state: 'building',
      recipe: {},
      cmdline: '',
    } as const;
    const copy = fixture.ledger.image.create({ data: { ...again, virtualMiB: 1, sizeBytes: 0, parts: {} } });
    expect(sqlState(await failure(copy))).toBe('23505');
  });

  test('is not retired while a VM needs it, and no VM is made from it afterwards, in either order', async () => {
    for (let round = 0; round < 10; round += 1) {
      const name = `round-${round}`;
      const id = await build(alice, { name });
      await finish(id, ready);
      const retire = fixture.ledger
        .$transaction((tx) => retireImages(tx, { owner: alice, name, digest: null, byOperator: false, nowMs: fixture.now }))
        .then(
          () => 'retired',
          (error) => error.code as string,
        );
      const task = accept(fixture, alice, { image: name }).then(
        () => 'accepted',
        (error) => error.code as string,
      );
      expect([
        ['retired', 'image-unknown'],
        ['in-use', 'accepted'],
      ]).toContainEqual(await Promise.all([retire, task]));
    }
  });

  test('cannot be the image of a VM before it is ready', async () => {
    const id = await build(alice);
    const vm = {
      id: newId('vm'),
      ownerId: alice,
      name: 'x',
      imageId: id,
      vcpus: 1,
      memoryMiB: 1,
      diskMiB: 1,
      state: 'pending',
    } as const;
    const error = await failure(fixture.ledger.vm.create({ data: vm }));
    expect(ledgerError(error)?.code).toBe('in-use');
  });

  test('is published of one owner at a time, also for concurrent requests', async () => {
    for (const owner of [alice, bob]) await finish(await build(owner), ready);
    const publish = (owner: string, published = true) =>
      fixture.ledger
        .$transaction((tx) => publishImages(tx, { owner, name: 'mine', published, nowMs: fixture.now }))
        .then(
          () => 'published',
          (error) => error.code as string,
        );
    expect((await Promise.all([publish(alice), publish(bob)])).toSorted()).toEqual(['conflict', 'published']);
    expect(await fixture.ledger.image.count({ where: { publishedAt: { not: null } } })).toBe(1);
  });

  test('is fetched from the peers that have it, each host beginning with another one', async () => {
    for (const id of ['host-1', 'host-2', 'host-3', 'host-4']) await arrive(id);
    const { id } = await fixture.ledger.image.findFirstOrThrow({ where: { name: 'debian-12' } });
    const image = id as ImageId;
    const hosts = await fixture.ledger.host.findMany({ orderBy: { id: 'asc' } });
    const address = (host: string) => hosts.find((one) => one.id === host)!.address;
    const peers = async (host: string) => (await fixture.activities.issueImageRef(image, host as HostId)).peers;
    expect(await peers('host-1')).toEqual([]);
    for (const host of ['host-1', 'host-2', 'host-3']) await fixture.activities.recordImageCached(host as HostId, image);
    await fixture.activities.markHostUnreachable('host-3' as HostId);
    expect(await peers('host-4')).toEqual([address('host-1'), address('host-2')]);
    expect(await peers('host-1')).toEqual([address('host-2')]);
    await arrive('host-3');
    await fixture.activities.recordImageCached('host-3' as HostId, image);
    const again = (await fixture.ledger.host.findUniqueOrThrow({ where: { id: 'host-3' } })).address;
    expect(await peers('host-2')).toEqual([again, address('host-1')]);
    // Of many the next few.
    for (let n = 10; n < 30; n += 1) {
      await arrive(`host-${n}`);
      await fixture.activities.recordImageCached(`host-${n}` as HostId, image);
    }
    const first = (await fixture.ledger.host.findUniqueOrThrow({ where: { id: 'host-10' } })).address;
    expect([(await peers('host-1')).length, (await peers('host-1'))[0]]).toEqual([8, first]);
  });

  test('that is retired is swept from the ledger, except for files that others need', async () => {
    await arrive('host-1');
    const id = await build(alice);
    const file = {
      id: disk.file,
      ownerId: alice,
      imageId: id,
      name: 'disk',
      state: 'ready',
      sizeBytes: 77,
      sha256: disk.sha256,
    } as const;
    await fixture.ledger.file.create({ data: file });
    const kernel = { id: 'file_kernel', ownerId: alice, name: 'k', state: 'ready', sizeBytes: 1, sha256: disk.sha256 } as const;
    await fixture.ledger.file.create({ data: kernel });
    await finish(id, ready);
    await fixture.activities.recordImageCached('host-1' as HostId, id);
    await fixture.ledger.$transaction((tx) =>
      retireImages(tx, { owner: alice, name: 'mine', digest: null, byOperator: false, nowMs: fixture.now }),
    );
    expect(await fixture.activities.listImagesToSweep()).toEqual([id]);
    expect(await fixture.activities.listImageHosts(id)).toEqual(['host-1']);
    await fixture.activities.recordImageRemoved('host-1' as HostId, id);
    await fixture.activities.removeImageFiles(id);
    await fixture.activities.removeImageFiles(id);
    expect(await fixture.activities.listImagesToSweep()).toEqual([]);
    expect(await fixture.ledger.file.findMany({ select: { id: true } })).toEqual([{ id: 'file_kernel' }]);
    // A host that was unreachable meanwhile still has it.
    await fixture.activities.registerHost(hostFacts('host-2', roomy, { images: [id] }));
    expect(await fixture.activities.listImagesToSweep()).toEqual([id]);
  });

  test('whose build was not started, or not cancelled, is found by the housekeeping', async () => {
    const id = await build(alice);
    const { digest } = await row(id);
    fixture.now += 60_000;
    expect(await fixture.activities.listBuildsWithoutWorkflow(20)).toEqual([{ id, name: 'mine', digest }]);
    await fixture.activities.loadBuild(id);
    expect(await fixture.activities.listBuildsWithoutWorkflow(20)).toEqual([]);
    await fixture.ledger.image.update({ where: { id }, data: { cancelRequestedAt: new Date(fixture.now) } });
    fixture.now += 60_000;
    expect(await fixture.activities.listBuildsToCancel(20)).toEqual([{ id, name: 'mine', digest }]);
  });
});
