import { z } from 'zod';
import type { Prisma } from '../../generated/prisma/client.ts';
import { acceptImage } from '../../ledger/images/accept-image.ts';
import { usableBy } from '../../ledger/images/find-image.ts';
import { publishImages } from '../../ledger/images/publish-images.ts';
import { retireImages } from '../../ledger/images/retire-images.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId, OwnerId } from '../../model/ids.ts';
import { ImageRecipe } from '../../model/image.ts';
import { type ImageState, imageStates } from '../../model/states.ts';
import { workflowId } from '../../model/temporal.ts';
import type { ApiDeps } from '../deps.ts';
import { openFollowers, sendLog } from '../files/follow-log.ts';
import { json, noContent, streamed } from '../http/answer.ts';
import type { Caller } from '../http/auth.ts';
import { fingerprint, runOnce, transactionLimits } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../http/page.ts';
import { Image } from '../schemas.ts';

const withHosts = { hosts: { select: { hostId: true }, orderBy: { hostId: 'asc' } } } as const;
type Row = Prisma.ImageGetPayload<{ include: typeof withHosts }>;

const storedJson = { error: Image.shape.error, timeline: Image.shape.timeline };

function show(row: Row): z.input<typeof Image> {
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
  digest: z.string().max(64).optional().meta({ description: 'One digest of that name; the newest that is ready unless said' }),
  owner: z.string().max(64).optional().meta({ description: "Whose; operators may name another's" }),
});
const LogQuery = ImageSelector.extend({
  follow: z.enum(['0', '1']).default('0').meta({ description: '1: go on until the build is over' }),
});
const Published = z.strictObject({ published: z.boolean() }).meta({ id: 'ImagePublication' });

/** Which images a caller may see. One that is retired is seen no more. */
function visible(caller: Caller): Prisma.ImageWhereInput {
  const retired = { state: { not: 'retired' as const } };
  return caller.role === 'operator' ? retired : { AND: [usableBy(caller.ownerId), retired] };
}

/** An owner's own before others; of each the one that is ready, then the one that was named last. */
function preferredImage(caller: Caller, rows: Row[]): Row | undefined {
  const rank = (row: Row) => [row.ownerId === caller.ownerId ? 0 : 1, row.state === 'ready' ? 0 : 1, -row.namedAt.getTime()];
  const compare = (a: number[], b: number[]) => a.map((value, index) => value - b[index]!).find((d) => d !== 0) ?? 0;
  return rows.toSorted((a, b) => compare(rank(a), rank(b)) || (a.id < b.id ? 1 : -1))[0];
}

export function imageRoutes({ ledger, temporal, repository, log, clock }: ApiDeps): Operation[] {
  const followers = openFollowers();

  async function find(caller: Caller, name: string, { digest, owner }: z.output<typeof ImageSelector>): Promise<Row> {
    const which = { name, ...(digest === undefined ? {} : { digest }), ...(owner === undefined ? {} : { ownerId: owner }) };
    const newest = { orderBy: [{ namedAt: 'desc' as const }, { id: 'desc' as const }], take: 500, include: withHosts };
    const row = preferredImage(caller, await ledger.image.findMany({ where: { AND: [visible(caller), which] }, ...newest }));
    if (!row) throw new BerthError('not-found', `There is no image ${name}${digest === undefined ? '' : ` ${digest}`}`);
    return row;
  }

  /** The wish is in the ledger already: housekeeping does what this could not. */
  async function bestEffort(what: string, image: string, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      log.warn({ err: error, imageId: image }, `the workflow could not be ${what} now; housekeeping will see to it`);
    }
  }

  async function stateOf(id: string): Promise<ImageState> {
    const row = await ledger.image.findUniqueOrThrow({ where: { id }, select: { state: true } });
    return row.state;
  }

  return [
    operation({
      method: 'post',
      path: '/v1/images',
      id: 'buildImage',
      tag: 'images',
      summary: 'Build an image from a recipe',
      description:
        'The same recipe has the same digest and is not built twice: 200 when it is ready, 202 while it is built. The name stands for it as soon as it is ready; VMs that were made from what the name stood for before keep that.',
      access: 'client',
      body: ImageRecipe,
      answers: {
        200: { description: 'There is one of this digest', schema: Image, headers: { Location: 'The image' } },
        202: { description: 'It is being built', schema: Image, headers: { Location: 'The image' } },
      },
      problems: ['image-unknown', 'file-unknown', 'quota-exceeded', 'conflict'],
      handle: async ({ req, caller: { ownerId, keyId }, body, idempotencyKey: key }) => {
        const claim = { ownerId, key, method: 'POST', path: '/v1/images', fingerprint: fingerprint(JSON.stringify(req.body)) };
        const { answer } = await runOnce(ledger, claim, async (tx) => {
          const { id, state } = await acceptImage(tx, { owner: ownerId as OwnerId, recipe: body, nowMs: clock() });
          const row = await tx.image.findUniqueOrThrow({ where: { id }, include: withHosts });
          return json(state === 'ready' ? 200 : 202, show(row), `/v1/images/${row.name}?digest=${row.digest}`);
        });
        const { id, name, digest, state } = Image.parse(JSON.parse(answer.text ?? ''));
        log.info({ imageId: id, owner: ownerId, keyId, state }, 'recipe accepted');
        // Also on a repeated request: the first one may have died before it came to this.
        if (state === 'building') await bestEffort('started', id, () => temporal.startBuild(id as ImageId, name, digest));
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
      query: PageQuery.extend({ state: z.enum(imageStates).optional().meta({ description: 'Images in this state alone' }) }),
      answers: { 200: { description: 'A page', schema: pageOf(Image) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const { where, ...rest } = pageQuery('images', query);
        const state = query.state === undefined ? {} : { state: query.state };
        const rows = await ledger.image.findMany({
          where: { AND: [visible(caller), state, where] },
          ...rest,
          include: withHosts,
        });
        return json(200, page('images', query.limit, rows, show));
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
      handle: async ({ caller, params: { name }, query }) => json(200, show(await find(caller, name, query))),
    }),
    operation({
      method: 'get',
      path: '/v1/images/{name}/log',
      id: 'getImageLog',
      tag: 'images',
      summary: 'Read the log of the build',
      description: 'As far as it has arrived; with `follow=1` until the build is over. Only its owner and operators may.',
      access: 'client',
      params: Name,
      query: LogQuery,
      answers: { 200: { description: 'The log', media: 'text/plain' } },
      problems: ['not-found', 'unavailable'],
      handle: async ({ res, caller, params: { name }, query: { follow, ...which } }) => {
        const row = await find(caller, name, which);
        const mine = caller.role === 'operator' || row.ownerId === caller.ownerId;
        if (!mine || row.buildVmId === null) throw new BerthError('not-found', `There is no log of a build of ${name}`);
        const leave = followers.acquire();
        if (!leave) throw new BerthError('unavailable', 'Too many logs are being read; try again soon');
        try {
          const order = { taskId: row.buildVmId, node: 0, follow: follow === '1' };
          await sendLog(repository.logs, order, async () => (await stateOf(row.id)) !== 'building', res);
        } finally {
          leave();
        }
        return streamed;
      },
    }),
    operation({
      method: 'put',
      path: '/v1/images/{name}/publication',
      id: 'publishImage',
      tag: 'images',
      summary: 'Give an image to every owner, or take it back',
      description: 'All digests that the name of one owner stands for now. Its owner stays who it is.',
      access: 'operator',
      params: Name,
      query: ImageSelector.pick({ owner: true }),
      body: Published,
      answers: { 200: { description: 'The image', schema: Image } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { name }, query, body }) => {
        const { ownerId } = await find(caller, name, query);
        if (ownerId === null) throw new BerthError('conflict', `The image ${name} is the site's own: everybody has it`);
        await ledger.$transaction((tx) => publishImages(tx, { owner: ownerId, name, published: body.published, nowMs: clock() }));
        log.info({ image: name, owner: ownerId, keyId: caller.keyId, published: body.published }, 'publication changed');
        return json(200, show(await find(caller, name, { owner: ownerId })));
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
        204: { description: 'Deleted: no VM can be made from it any more' },
      },
      problems: ['not-found', 'in-use'],
      handle: async ({ caller, params: { name }, query }) => {
        const row = await find(caller, name, query);
        if (caller.role !== 'operator' && row.ownerId !== caller.ownerId)
          throw new BerthError('not-found', `This owner has no image ${name}`);
        const order = { owner: row.ownerId, name, digest: query.digest ?? null, byOperator: caller.role === 'operator' };
        const found = await ledger.$transaction((tx) => retireImages(tx, { ...order, nowMs: clock() }), transactionLimits);
        log.info({ image: name, owner: row.ownerId, keyId: caller.keyId, ...found }, 'image deleted');
        for (const { id, digest } of found.building)
          await bestEffort('cancelled', id, () => temporal.cancelBuild(id, name, digest));
        for (const id of found.retired) await bestEffort('started', id, () => temporal.startRetirement(id));
        const first = found.building[0];
        if (first === undefined) return noContent;
        return json(202, show(await ledger.image.findUniqueOrThrow({ where: { id: first.id }, include: withHosts })));
      },
    }),
  ];
}
