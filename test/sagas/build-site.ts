import { createHash } from 'node:crypto';
import { acceptImage } from '../../ledger/images/accept-image.ts';
import { type ImageId, newId, type OwnerId, type VmId } from '../../model/ids.ts';
import { ImageRecipe } from '../../model/image.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import type { FakeSite } from './fake-site.ts';

export interface FakeBuild {
  id: ImageId;
  name: string;
  vmId: VmId;
  workflowId: string;
  ended(): Promise<'ready' | 'failed'>;
}

export const imageRow = (site: FakeSite, id: ImageId) => site.ledger.image.findUniqueOrThrow({ where: { id } });

/** A file that hosts can fetch. */
async function addFile(site: FakeSite, owner: string, content: string): Promise<string> {
  const id = newId('file');
  const bytes = Buffer.from(content);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const row = { name: 'disk', state: 'ready' as const, sizeBytes: BigInt(bytes.length), sha256 };
  await site.ledger.file.create({ data: { id, ownerId: owner, ...row } });
  site.repository.sources.set(`/internal/files/${id}`, bytes);
  return id;
}

type Order = Omit<Partial<ImageRecipe>, 'base'> & { base?: { disk: string } | { suite: string } | { image: string } };

async function baseOf(site: FakeSite, owner: string, base: Order['base']): Promise<object> {
  if (base === undefined) return { image: await publishBase(site) };
  return 'disk' in base ? { file: await addFile(site, owner, base.disk) } : base;
}

/**
 * Names of images begin with a letter or a digit, and ids contain an underscore: so the base image gets a name of its own.
 */
export async function publishBase(site: FakeSite): Promise<string> {
  const id = await site.publishImage();
  const name = id.replace('_', '-');
  await site.ledger.image.update({ where: { id }, data: { name } });
  return name;
}

let number = 0;

/**
 * Accepts a recipe as the API does, and starts its build, for an owner of its own, because an owner may have only a few
 * builds at a time.
 * @param before runs before the workflow starts
 */
export async function startBuild(
  site: FakeSite,
  order: Order = {},
  before: (workflow: string) => void = () => undefined,
  owner: OwnerId = newId('owner'),
): Promise<FakeBuild> {
  number += 1;
  await site.ledger.owner.upsert({ where: { id: owner }, create: { id: owner, name: owner }, update: {} });
  const { base, ...rest } = order;
  if (base !== undefined && 'suite' in base) await publishBuilder(site);
  const recipe = ImageRecipe.parse({ name: `image-${number}`, ...rest, base: await baseOf(site, owner, base) });
  const accepted = await site.ledger.$transaction((tx) => acceptImage(tx, { owner, recipe, nowMs: Date.now() }));
  const { id, name, digest, buildVmId } = await imageRow(site, accepted.id);
  const workflow = workflowId.build(name, digest);
  before(workflow);
  const handle = await site.client.workflow.start(workflowType.build, {
    taskQueue: controlQueue,
    workflowId: workflow,
    args: [id, site.pace],
  });
  const ended = () => handle.result() as Promise<'ready' | 'failed'>;
  return { id: accepted.id, name, vmId: buildVmId as VmId, workflowId: workflow, ended };
}

/** The image in whose VMs suites are installed. */
async function publishBuilder(site: FakeSite): Promise<void> {
  if ((await site.ledger.image.count({ where: { name: 'debian-12' } })) > 0) return;
  const id = await site.publishImage();
  await site.ledger.image.update({ where: { id }, data: { name: 'debian-12' } });
}
