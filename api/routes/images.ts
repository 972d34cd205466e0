import { z } from 'zod';
import { BerthError } from '../../model/errors.ts';
import type { ApiDeps } from '../app.ts';
import type { Caller } from '../auth.ts';
import { json, type Operation, operation } from '../operation.ts';
import { PageQuery, page, pageOf, pageQuery } from '../page.ts';
import { Image } from '../schemas.ts';

const withHosts = { hosts: { select: { hostId: true }, orderBy: { hostId: 'asc' } } } as const;

interface Row {
  id: string;
  name: string;
  digest: string;
  state: z.input<typeof Image>['state'];
  ownerId: string | null;
  sizeBytes: bigint;
  virtualMiB: number;
  createdAt: Date;
  hosts: { hostId: string }[];
}

function show(row: Row): z.input<typeof Image> {
  return {
    id: row.id,
    name: row.name,
    digest: row.digest,
    state: row.state,
    owner: row.ownerId,
    sizeBytes: Number(row.sizeBytes),
    virtualMiB: row.virtualMiB,
    hosts: row.hosts.map(({ hostId }) => hostId),
    createdAt: row.createdAt.toISOString(),
  };
}

/** Which images a caller may see and use: the operator's, and its owner's own. */
export function visibleImages(caller: Caller) {
  return caller.role === 'operator' ? {} : { OR: [{ ownerId: null }, { ownerId: caller.ownerId }] };
}

export function imageRoutes({ ledger }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/images',
      id: 'listImages',
      tag: 'images',
      summary: 'List images and their digests, newest first',
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Image) } },
      problems: [],
      handle: async ({ caller, query }) => {
        const { where, ...rest } = pageQuery('images', query);
        const rows = await ledger.image.findMany({ where: { AND: [visibleImages(caller), where] }, ...rest, include: withHosts });
        return json(200, page('images', query.limit, rows, show));
      },
    }),
    operation({
      method: 'get',
      path: '/v1/images/{name}',
      id: 'getImage',
      tag: 'images',
      summary: 'Describe what an image name stands for: its newest digest that is ready',
      access: 'client',
      params: z.strictObject({ name: z.string() }),
      answers: { 200: { description: 'The image', schema: Image } },
      problems: ['not-found'],
      handle: async ({ caller, params: { name } }) => {
        const newest = { orderBy: [{ createdAt: 'desc' as const }, { id: 'desc' as const }], include: withHosts };
        const mine = { AND: [visibleImages(caller), { name }] };
        const row =
          (await ledger.image.findFirst({ where: { ...mine, state: 'ready' }, ...newest })) ??
          (await ledger.image.findFirst({ where: mine, ...newest }));
        if (!row) throw new BerthError('not-found', `There is no image ${name}`);
        return json(200, show(row));
      },
    }),
  ];
}
