import { z } from 'zod';
import {
  findImageById,
  findImageByName,
  type ImageRecord,
  type ImageViewer,
  readImageState,
  readImages,
} from '../../ledger/images/read-images.ts';
import { acceptImageOnce, changeImagePublication, changeImagesRetired } from '../../ledger/images/request-image.ts';
import { changeBuildForceEnded } from '../../ledger/levers/force-end.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId, OwnerId } from '../../model/ids.ts';
import { ImageRecipe } from '../../model/image.ts';
import { diskHeadBytes, knownOtherFormat } from '../../model/input/disk-format.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import { imageStates } from '../../model/states.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { json, noContent, streamed } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { bestEffort } from '../http/best-effort.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { afterLever, forceEndOf } from '../levers.ts';
import { Image } from '../schemas/images.ts';
import { ForceEndOrder } from '../schemas/levers.ts';

const storedJson = { error: Image.shape.error, timeline: Image.shape.timeline };

function show(row: ImageRecord): z.input<typeof Image> {
  const built = row.buildVmId !== null;
  return {
    id: row.id,
    name: row.name,
    digest: row.digest,
    state: row.state,
    owner: row.ownerId,
    published: row.ownerId === null || row.publishedAt !== null,
    sizeBytes: Number(row.sizeBytes),
    virtualMiB: row.virtualMiB,
    cloudInit: row.cloudInit,
    hosts: row.hosts.map(({ hostId }) => hostId),
    workflowId: built ? workflowId.build(row.name, row.digest) : null,
    buildVm: row.buildVmId,
    error: storedJson.error.parse(row.error),
    timeline: storedJson.timeline.parse(row.timeline),
    createdAt: row.createdAt.toISOString(),
    finishedAt: row.finishedAt?.toISOString() ?? null,
  };
}

const Name = z.strictObject({ name: z.string() });
const ImageSelector = z.strictObject({
  digest: z.string().max(64).optional().meta({ description: 'One digest of that name; by default the newest that is ready' }),
  owner: z.string().max(64).optional().meta({ description: "The owner's id; operators may name another's" }),
});
const LogQuery = ImageSelector.extend({
  follow: z.enum(['0', '1']).default('0').meta({ description: '1: continue until the build is over' }),
});
const Published = z.strictObject({ published: z.boolean() }).meta({ id: 'ImagePublication' });

const viewerOf = (caller: Caller): ImageViewer => ({ owner: caller.ownerId, everyOwner: caller.role === 'operator' });

export function imageRoutes(deps: ApiDeps): Operation[] {
  const { ledger, temporal, repository, sendLog, config, log, clock } = deps;
  /** What is certainly no disk is refused now, and not by the build. A file that is not there is acceptImage's to refuse. */
  async function refuseOtherFormat(owner: string, { base }: ImageRecipe): Promise<void> {
    const head = 'file' in base ? await repository.readHead(owner, base.file, diskHeadBytes) : null;
    const why = head === null ? null : knownOtherFormat(head);
    if (why === null) return;
    throw new BerthError('image-refused', `Taking an uploaded disk: ${why}`, {
      fields: [{ pointer: '/base/file', detail: `${why}; expected a qcow2 or raw disk that boots` }],
    });
  }

  return [
    operation({
      method: 'post',
      path: '/v1/images',
      id: 'buildImage',
      tag: 'images',
      summary: 'Build an image from a recipe',
      description:
        'The same recipe has the same digest and is not built twice: 200 when it is ready, 202 while it is built. The name stands for it as soon as it is ready; VMs that were created from an earlier digest keep that.',
      access: 'client',
      body: ImageRecipe,
      maxBodyBytes: 2 ** 20,
      answers: {
        200: { description: 'An image of this digest is ready', schema: Image, headers: { Location: 'The image' } },
        202: { description: 'It is being built', schema: Image, headers: { Location: 'The image' } },
      },
      problems: ['image-unknown', 'file-unknown', 'image-refused', 'quota-exceeded', 'conflict'],
      handle: async ({ caller, body, idempotencyKey }) => {
        const { ownerId: owner, keyId } = caller;
        const request = idempotentPost(caller, idempotencyKey, '/v1/images', body);
        await refuseOtherFormat(owner, body);
        const build = { owner: owner as OwnerId, recipe: body, quotas: siteQuotas(config.api), nowMs: clock() };
        const { answer } = await acceptImageOnce(ledger, request, build, (row, state) =>
          json(state === 'ready' ? 200 : 202, show(row), `/v1/images/${row.name}?digest=${row.digest}`),
        );
        // The Location has no id, so that it is read from the body, which may be that of an earlier request.
        const { id, name, digest, state } = Image.parse(JSON.parse(answer.text ?? ''));
        log.info({ imageId: id, owner, keyId, state }, 'recipe accepted');
        // Also on a repeated request: the first one may have crashed before this.
        if (state === 'building') await bestEffort(log, { imageId: id }, () => temporal.startBuild(id as ImageId, name, digest));
        return answer;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/images',
      id: 'listImages',
      tag: 'images',
      summary: 'List images and their digests, newest first',
      access: 'client',
      query: PageQuery.extend({ state: z.enum(imageStates).optional().meta({ description: 'Only images in this state' }) }),
      answers: { 200: { description: 'A page', schema: pageOf(Image) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const [viewer, filter] = [viewerOf(caller), { state: query.state }];
        return json(200, await readPage('images', query, (page) => readImages(ledger, viewer, filter, page), show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/images/{name}',
      id: 'getImage',
      tag: 'images',
      summary: "Describe what an image's name stands for: the caller's own before a published one",
      access: 'client',
      params: Name,
      query: ImageSelector,
      answers: { 200: { description: 'The image', schema: Image } },
      problems: ['not-found'],
      handle: async ({ caller, params: { name }, query }) =>
        json(200, show(await findImageByName(ledger, viewerOf(caller), name, query))),
    }),
    operation({
      method: 'get',
      path: '/v1/images/{name}/log',
      id: 'getImageLog',
      tag: 'images',
      summary: 'Read the log of the build',
      description: 'As far as it has arrived; with `follow=1` until the build is over. For its owner and operators only.',
      access: 'client',
      params: Name,
      query: LogQuery,
      answers: { 200: { description: 'The log', media: 'text/plain' } },
      problems: ['not-found', 'unavailable'],
      handle: async ({ res, caller, params: { name }, query: { follow, ...selector } }) => {
        const row = await findImageByName(ledger, viewerOf(caller), name, selector);
        const isVisible = caller.role === 'operator' || row.ownerId === caller.ownerId;
        if (!isVisible || row.buildVmId === null) throw new BerthError('not-found', `There is no log of a build of ${name}`);
        const request = { reader: caller.ownerId, taskId: row.buildVmId, node: 0, follow: follow === '1' };
        await sendLog(request, async () => (await readImageState(ledger, row.id)) !== 'building', res);
        return streamed;
      },
    }),
    operation({
      method: 'put',
      path: '/v1/images/{name}/publication',
      id: 'publishImage',
      tag: 'images',
      summary: 'Publish an image to every owner, or withdraw it',
      description: 'All digests that the name of one owner stands for now. Its owner does not change.',
      access: 'operator',
      params: Name,
      query: ImageSelector.pick({ owner: true }),
      body: Published,
      answers: { 200: { description: 'The image', schema: Image } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { name }, query, body }) => {
        const { ownerId } = await findImageByName(ledger, viewerOf(caller), name, query);
        if (ownerId === null) throw new BerthError('conflict', `The image ${name} is the site's own: everybody has it`);
        await changeImagePublication(ledger, { owner: ownerId, name, published: body.published, nowMs: clock() });
        log.info({ image: name, owner: ownerId, keyId: caller.keyId, published: body.published }, 'publication changed');
        return json(200, show(await findImageByName(ledger, viewerOf(caller), name, { owner: ownerId })));
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/images/{name}',
      id: 'deleteImage',
      tag: 'images',
      summary: 'Delete an image, with all its digests or one of them; or cancel its build',
      access: 'client',
      params: Name,
      query: ImageSelector,
      answers: {
        202: { description: 'A build of it is being cancelled; delete it again when that is over', schema: Image },
        204: { description: 'Deleted: no VM can be created from it any more' },
      },
      problems: ['not-found', 'in-use'],
      handle: async ({ caller, params: { name }, query }) => {
        const row = await findImageByName(ledger, viewerOf(caller), name, query);
        if (caller.role !== 'operator' && row.ownerId !== caller.ownerId)
          throw new BerthError('not-found', `This owner has no image ${name}`);
        const { building, retired } = await changeImagesRetired(ledger, {
          owner: row.ownerId,
          name,
          digest: query.digest ?? null,
          byOperator: caller.role === 'operator',
          nowMs: clock(),
        });
        log.info({ image: name, owner: row.ownerId, keyId: caller.keyId, building, retired }, 'image deleted');
        for (const { id, digest } of building)
          await bestEffort(log, { imageId: id }, () => temporal.cancelBuild(id, name, digest));
        for (const id of retired) await bestEffort(log, { imageId: id }, () => temporal.startRetirement(id));
        const first = building[0];
        return first === undefined ? noContent : json(202, show(await findImageById(ledger, first.id)));
      },
    }),
    operation({
      method: 'post',
      path: '/v1/images/{name}/force-end',
      id: 'forceEndImage',
      tag: 'images',
      summary: 'End a build that nothing else ends',
      description:
        'It is `failed` with the code `force-ended`; what its VM takes of its host stays fenced until the host has confirmed that nothing of it is left. The recipe can be built again.',
      access: 'operator',
      params: Name,
      query: ImageSelector,
      body: ForceEndOrder,
      answers: { 200: { description: 'The image', schema: Image } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { name }, query, body }) => {
        const found = await findImageByName(ledger, viewerOf(caller), name, query);
        const { record, fenced } = await changeBuildForceEnded(ledger, found, forceEndOf(caller, body, clock()));
        await afterLever(deps, { imageId: record.id }, caller, fenced);
        return json(200, show(record));
      },
    }),
  ];
}
