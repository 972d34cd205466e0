import { createConnection } from 'node:net';
import { expect, test } from 'vitest';
import { fullTest } from '../full-test.ts';
import { isFull } from '../tier.ts';
import { move, moveOver } from './moves.ts';
import { download, publishedServer, startLoad, untilAnswered } from './published-load.ts';
import { onSharedSite } from './shared-site.ts';
import { expectNothingLeft, onEdge, openSite, type TestSite } from './the-site.ts';

let here: TestSite;
onSharedSite((site) => {
  here = site;
});

/** What an edge has of owners: their segments, and the chains of their ports. */
async function ownersOn(site: TestSite, edge: string): Promise<string[]> {
  const [links, rules] = [await onEdge(site, edge, ['ip', '-o', 'link', 'show']), await onEdge(site, edge, ['iptables-save'])];
  return [...links.matchAll(/ ((?:bg|vx)[0-9a-f]+)[:@]/g), ...rules.matchAll(/^:(BERTH-EDGE-[0-9a-f]+\S*) /gm)].map(
    (match) => match[1]!,
  );
}

const moves = isFull ? 5 : 1;

test('a published web server moves under its clients, and no connection breaks', async () => {
  const { task, port } = await publishedServer(here);
  const worker = here.site.child('edge1/worker');
  const load = startLoad(port);
  const parts = isFull ? 1000 : 100;
  const whole = download(port, parts);
  const downtimes: (number | null)[] = [];
  const hosts = new Set(task.hosts);
  for (let times = 0; times < moves; times += 1) {
    // From one host to the next, over all three.
    const from = (await here.client.callWithRetry<{ host: string }>('GET', `/v1/vms/${port.vm}`)).body.host;
    const to = `host${(Number(from.slice('host'.length)) % 3) + 1}`;
    const migration = await moveOver(here, (await move(here, port.vm, { to })).id);
    expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', error: null });
    downtimes.push(migration.downtimeMs);
    hosts.add(migration.to!);
    if (times === 1 || times === 3) {
      const before = worker.restarts();
      worker.kill('SIGKILL');
      await worker.untilReadyAgain(before, 30_000);
    }
  }
  expect(await whole).toBe(parts);
  const { answered, failed, connections, longestMs } = await load.stop();
  console.log(
    `${answered} requests answered, ${longestMs} ms at most, over ${hosts.size} hosts; it stood still for ${downtimes.join(', ')} ms`,
  );
  expect([failed, connections]).toEqual([[], 4]);
  expect(answered).toBeGreaterThan(20);

  // Nothing but what is published answers, and nothing of it is left.
  expect(await answers(port.publicAddress, port.publicPort + 1)).toBe(false);
  expect(await answers(port.publicAddress, 22)).toBe(false);
  await here.client.callWithRetry('DELETE', `/v1/tasks/${task.id}`);
  await here.client.over(task.id);
  await expect.poll(() => ownersOn(here, 'edge1'), { timeout: 30_000 }).toEqual([]);
  // The row ends when the edge has confirmed that.
  const ports = async (): Promise<unknown[]> =>
    (await here.client.callWithRetry<{ items: unknown[] }>('GET', '/v1/ports')).body.items;
  await expect.poll(ports, { timeout: 10_000 }).toEqual([]);
  expect(await answers(port.publicAddress, port.publicPort)).toBe(false);
  await expectNothingLeft(here);
});

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port, timeout: 1500 });
    const over = (answer: boolean) => () => {
      socket.destroy();
      resolve(answer);
    };
    socket.on('connect', over(true)).on('timeout', over(false)).on('error', over(false));
  });
}

// On a site of its own, so for a full run: contract/edge and follow-orders hold the parts of it.
fullTest('of two edges the other one takes over within five seconds', async () => {
  const site = await openSite(1, {}, 2);
  try {
    const { task, port } = await publishedServer(site);
    const active = async (): Promise<string> => {
      const { items } = (await site.operator.callWithRetry<{ items: { id: string; active: boolean }[] }>('GET', '/v1/edges'))
        .body;
      return items.find((edge) => edge.active)!.id;
    };
    const before = await active();
    const edge = site.site.edges.find(({ id }) => id === before)!;
    // The whole machine, and for so long that it doesn't come back meanwhile.
    const reconnect = await edge.partition();
    const tookMs = await untilAnswered(port, 20_000);
    console.log(`the service was back ${tookMs} ms after the end of ${before}`);
    expect(tookMs).toBeLessThan(5000);
    expect(await active()).not.toBe(before);
    await reconnect();
    // The one that comes back stands by, without the addresses.
    await expect
      .poll(() => onEdge(site, before, ['ip', '-4', '-o', 'address', 'show', 'dev', 'eth0']))
      .not.toContain(port.publicAddress);
    expect(await untilAnswered(port, 20_000)).toBeLessThan(5000);
    await site.client.callWithRetry('DELETE', `/v1/tasks/${task.id}`);
    await site.client.over(task.id);
    for (const { id } of site.site.edges) await expect.poll(() => ownersOn(site, id), { timeout: 30_000 }).toEqual([]);
  } finally {
    await site.stop();
  }
});
