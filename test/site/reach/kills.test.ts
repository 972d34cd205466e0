import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { until } from '../../../infra/site/until.ts';
import { type PublishedAnswer, publishedServer, untilAnswered } from '../published-load.ts';
import { onSharedSite } from '../shared-site.ts';
import { vmOf } from '../subjects.ts';
import { expectNothingLeft, onEdge, type TestSite } from '../the-site.ts';
import { berth, removeVm, startVm } from './berth.ts';

let here: TestSite;
onSharedSite((site) => {
  here = site;
});

/** From the request on: before anything was done for it, in the middle, and when it is about to be, or was, done. */
const momentsMs = [0, 300, 700];

async function killAfter(name: string, ms: number): Promise<void> {
  await delay(ms);
  const child = here.site.child(name);
  const restarts = child.restarts();
  child.kill('SIGKILL');
  await child.untilReadyAgain(restarts, 120_000);
}

type Port = PublishedAnswer & { protocol: string; port: number };
const allPorts = async (): Promise<Port[]> => (await here.client.callWithRetry<{ items: Port[] }>('GET', '/v1/ports')).body.items;

interface Kernel {
  /** Each translation once: protocol, public port, and where it leads. */
  translations: string[];
  /** Interfaces and chains of owners. */
  ofOwners: string[];
  /** In all chains together. */
  rules: number;
}

async function kernel(): Promise<Kernel> {
  const saved = await onEdge(here, 'edge1', ['iptables-save']);
  const links = await onEdge(here, 'edge1', ['ip', '-o', 'link', 'show']);
  const translated = [...saved.matchAll(/^-A BERTH-EDGE .* -p (\w+) .*--dport (\d+) -j DNAT --to-destination (\S+)$/gm)];
  return {
    translations: translated.map(([, protocol, port, to]) => `${protocol} ${port} to ${to}`).toSorted(),
    ofOwners: [...links.matchAll(/ ((?:bg|vx)[0-9a-f]+)[:@]/g), ...saved.matchAll(/^:(BERTH-EDGE-[0-9a-f]+\S*) /gm)]
      .map((match) => match[1]!)
      .toSorted(),
    rules: saved.split('\n').filter((line) => line.startsWith('-A')).length,
  };
}

/** What the ledger has, as the kernel would have it. */
async function wanted(): Promise<string[]> {
  const addresses = new Map<string, string>();
  const ports = await allPorts();
  for (const { vm } of ports)
    addresses.set(vm, (await here.client.callWithRetry<{ address: string }>('GET', `/v1/vms/${vm}`)).body.address);
  return ports.map((one) => `${one.protocol} ${one.publicPort} to ${addresses.get(one.vm)}:${one.port}`).toSorted();
}

async function expectAsInLedger(what: string): Promise<void> {
  await until(`${what}: each port is active`, 120_000, async () => (await allPorts()).every(({ state }) => state === 'active'));
  expect((await kernel()).translations, what).toEqual(await wanted());
}

test('whichever process is killed while a port is published or withdrawn, the kernel has what the ledger has', async () => {
  const { task, port } = await publishedServer(here);
  const vm = port.vm;
  const host = (await vmOf(here, vm)).host;
  const before = await kernel();
  const kills: string[] = [];
  for (const victim of ['edge1/worker', 'api', `${host}/worker`])
    for (const ms of momentsMs) {
      const headers = { 'idempotency-key': crypto.randomUUID() };
      const [answer] = await Promise.all([
        here.client.callWithRetry<Port>('POST', `/v1/vms/${vm}/ports`, { port: 8080 }, headers),
        killAfter(victim, ms),
      ]);
      const published = `${victim} killed ${ms} ms after the publication`;
      expect(answer.status, published).toBe(202);
      await expectAsInLedger(published);
      expect(await allPorts(), published).toHaveLength(2);
      await untilAnswered(answer.body, 60_000);
      const withdrawn = `${victim} killed ${ms} ms after the withdrawal`;
      await Promise.all([here.client.callWithRetry('DELETE', `/v1/vms/${vm}/ports/${answer.body.id}`), killAfter(victim, ms)]);
      await until(`${withdrawn}: the row ends`, 120_000, async () => (await allPorts()).length === 1);
      await expectAsInLedger(withdrawn);
      expect(await kernel(), withdrawn).toEqual(before);
      kills.push(`${victim} ${ms}`);
    }
  await here.client.callWithRetry('DELETE', `/v1/tasks/${task.id}`);
  await killAfter('edge1/worker', 200);
  await here.client.over(task.id);
  await expect.poll(kernel, { timeout: 30_000 }).toMatchObject({ translations: [], ofOwners: [] });
  await expect.poll(allPorts, { timeout: 30_000 }).toEqual([]);
  expect(await onEdge(here, 'edge1', ['conntrack', '-L', '--dst-nat'])).toBe('');
  await expectNothingLeft(here);
  console.log(`killed ${kills.length * 2 + 1} times: ${kills.join(', ')} ms, each at a publication and a withdrawal`);
}, 1_800_000);

test('whichever process is killed while a command begins or ends in a guest, it runs once at the most, and its end is told', async () => {
  const vm = await startVm(here, 'killed');
  const sessions = async (): Promise<string> => {
    const text = await (await fetch(`${here.site.operatorsUrl}/metrics`)).text();
    return /^berth_sessions (\d+)$/m.exec(text)?.[1] ?? 'none';
  };
  const ends: string[] = [];
  for (const victim of ['api', 'control', `${(await vmOf(here, vm)).host}/worker`])
    for (const ms of [0, 400, 1000, 2500]) {
      const name = `/tmp/ran-${ends.length}`;
      const [{ code, output, error }] = await Promise.all([
        berth(here, ['exec', vm, '--', 'sh', '-c', `echo begun >> ${name}; sleep 1; echo ended; exit 3`]),
        killAfter(victim, ms),
      ]);
      // A client without a session tells so, and one that has one has its end.
      const what = `${victim} killed after ${ms} ms: ${code}, ${error}`;
      if (code !== 3) expect([code, output.toString()], what).toEqual([expect.toBeOneOf([1, 255]), '']);
      else expect(output.toString(), what).toBe('ended\n');
      const ran = await berth(here, ['exec', vm, '--', 'sh', '-c', `sleep 1.5; cat ${name} 2>/dev/null || true`]);
      expect(ran.output.toString(), what).toBeOneOf(code === 3 ? ['begun\n'] : ['', 'begun\n']);
      ends.push(`${victim} ${ms}: ${code}`);
    }
  await expect.poll(sessions, { timeout: 20_000 }).toBe('0');
  console.log(ends.join('; '));
  await removeVm(here, vm);
}, 1_800_000);
