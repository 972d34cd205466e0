import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type ImageId, newId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyFault, faultsBut } from './faults.ts';

vi.setConfig({ maxConcurrency: 12, testTimeout: 240_000 });

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({ hosts: 2 });
});
afterAll(() => site.stop());

const call = (name: string, nth = 1): Call => ({ name, nth });
const cleanRun: Call[] = [
  call('listImageHosts'),
  call('removeImage', 1),
  call('removeImage', 2),
  call('recordImageRemoved', 1),
  call('recordImageRemoved', 2),
  call('removeImageFiles'),
];

/** A retired image on every host, with a disk of its own and a kernel that another image shares. */
async function retired(): Promise<{ id: ImageId; disk: string; kernel: string }> {
  const [id, other] = [await site.publishImage(), await site.publishImage()];
  const [disk, kernel, initrd] = [newId('file'), newId('file'), newId('file')];
  const part = (file: string) => ({ file, sha256: 'a'.repeat(64), sizeBytes: 1 });
  const row = { ownerId: site.owner, state: 'ready' as const, sizeBytes: 1n, sha256: 'a'.repeat(64) };
  await site.ledger.file.createMany({ data: [disk, kernel, initrd].map((file) => ({ ...row, id: file, name: file })) });
  const shared = { kernel: part(kernel), initrd: part(initrd) };
  await site.ledger.image.update({ where: { id: other }, data: { parts: { disk: part('other'), ...shared } } });
  await site.ledger.image.update({ where: { id }, data: { parts: { disk: part(disk), ...shared }, state: 'retired' } });
  await site.ledger.hostImage.createMany({ data: site.hosts.map((host) => ({ hostId: host.id, imageId: id })) });
  for (const host of site.hosts) host.images.set(id, { boots: true, pinnedUntilMs: 0 });
  return { id, disk, kernel };
}

async function retire(id: ImageId): Promise<void> {
  const options = { taskQueue: controlQueue, workflowId: workflowId.retire(id), args: [id, site.pace] };
  await site.client.workflow.execute(workflowType.retire, options);
}

async function expectSwept({ id, disk, kernel }: Awaited<ReturnType<typeof retired>>): Promise<void> {
  for (const host of site.hosts) expect(host.images.has(id)).toBe(false);
  expect(await site.ledger.hostImage.count({ where: { imageId: id } })).toBe(0);
  expect(await site.ledger.file.count({ where: { id: disk } })).toBe(0);
  expect(await site.ledger.file.count({ where: { id: kernel } })).toBe(1);
  expect((await site.ledger.image.findUniqueOrThrow({ where: { id } })).sweptAt).not.toBeNull();
}

test('the matrix covers every call of a retirement', async () => {
  const image = await retired();
  await retire(image.id);
  const recorded = site.faults.callsOf(workflowId.retire(image.id)).map(({ name, nth }) => `${name} ${nth}`);
  expect(recorded.sort()).toEqual(cleanRun.map(({ name, nth }) => `${name} ${nth}`).sort());
  await expectSwept(image);
});

test.concurrent.each(everyFault(cleanRun, faultsBut('cancelled', 'refused')))('$name $nth: $what', async ({ fault, ...at }) => {
  const image = await retired();
  site.faults.plan(workflowId.retire(image.id), at, fault);
  await retire(image.id);
  if (fault === 'late') await site.faults.runLate(workflowId.retire(image.id));
  await expectSwept(image);
});

test('a host where a VM still needs the image delays only its own copy', async () => {
  const image = await retired();
  const host = site.hosts[0]!;
  site.faults.plan(workflowId.retire(image.id), call('removeImage', 1), 'refusedBefore', 'in-use');
  await retire(image.id);
  expect(host.images.has(image.id)).toBe(false);
  await expectSwept(image);
});
