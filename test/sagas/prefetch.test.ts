import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { HostId, ImageId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import type { PrefetchRequest, PrefetchResult } from '../../workflows/image/prefetch-image.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';

let site: FakeSite;
let image: ImageId;
beforeAll(async () => {
  site = await openFakeSite({ hosts: 5 });
});
afterAll(() => site.stop());
beforeEach(async () => {
  image = await site.publishImage();
});

const soon = (ms: number) => new Date(Date.now() + ms).toISOString();
const allHosts = () => site.hosts.map(({ id }) => id);

async function prefetch(more: Partial<PrefetchRequest> = {}): Promise<PrefetchResult> {
  const order: PrefetchRequest = { image, hosts: allHosts(), deadline: soon(20_000), pinnedUntil: soon(3600_000), ...more };
  const options = { taskQueue: controlQueue, workflowId: workflowId.prefetch(image, 'test'), args: [order, site.pace] };
  return site.client.workflow.execute<(order: PrefetchRequest, pace: number) => Promise<PrefetchResult>>(workflowType.prefetch, {
    ...options,
    args: [order, site.pace],
  });
}

const holders = async (): Promise<string[]> =>
  (await site.ledger.hostImage.findMany({ where: { imageId: image }, orderBy: { hostId: 'asc' } })).map(({ hostId }) => hostId);

describe('an image that hosts need before a deadline', () => {
  test('is on all of them, pinned there, and the ledger has recorded it', async () => {
    const { ready, missing } = await prefetch();
    expect([...ready].sort()).toEqual(allHosts());
    expect(missing).toEqual([]);
    expect(await holders()).toEqual(allHosts());
    for (const host of site.hosts) expect(host.images.get(image)?.pinnedUntilMs).toBeGreaterThan(Date.now());
  });

  test('is read from the repository once, and from the other hosts after that', async () => {
    await prefetch();
    const offered = site.hosts.map((host) => host.peersOffered.get(image)?.length ?? -1);
    expect(offered.filter((peers) => peers === 0)).toHaveLength(1);
  });

  test('is reported as missing where its host does not answer, and is on the others', async () => {
    const silent = site.hosts[2]!.id as HostId;
    await site.stopWorker(silent);
    try {
      const { ready, missing } = await prefetch();
      expect([...ready].sort()).toEqual(allHosts().filter((id) => id !== silent));
      expect(missing).toMatchObject([{ host: silent, error: { code: 'host-unavailable' } }]);
    } finally {
      await site.startHost(site.hosts[2]!);
    }
  });

  test('is reported as missing where it has not arrived in time', async () => {
    for (const host of site.hosts) await site.stopWorker(host.id);
    try {
      const { ready, missing } = await prefetch({ deadline: soon(1000) });
      expect(ready).toEqual([]);
      expect(missing.map(({ error }) => error.code)).toEqual(allHosts().map(() => 'host-busy'));
    } finally {
      for (const host of site.hosts) await site.startHost(host);
    }
  });

  test('is reported as missing everywhere when there is no such image', async () => {
    await site.ledger.image.update({ where: { id: image }, data: { state: 'retired' } });
    const { missing } = await prefetch();
    expect(missing.map(({ error }) => error.code)).toEqual(allHosts().map(() => 'image-unknown'));
  });
});
