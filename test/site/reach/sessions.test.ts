import { readdir, readFile, readlink } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Stream } from '../../../cli/streams/stream.ts';
import { exitCodeOf } from '../../../model/streams/channels.ts';
import { openSite, type TestSite } from '../the-site.ts';
import { removeVm, startVm } from './berth.ts';

/** One host, so that all sessions are its; a guest has 32 at the most. */
const guests = 4;
const sessions = 100;
const rounds = 8;
/** After which a process has made what it keeps, and V8 the heap that it works in. */
const settledRounds = 4;
const portClosedMs = 10_000;
/** That begin in the same moment. */
const atOnce = 20;

let here: TestSite;
beforeAll(async () => {
  here = await openSite(1);
});
afterAll(() => here.stop());

/** Connections that are kept for a while may come after the first round: fewer than one that each of the later rounds leaves. */
const keptConnections = 4;
/** Pipes to a virsh process. */
const virshDescriptors = 3;

interface Use {
  /** Besides those of the pools of virsh processes, which have a process more whenever so many calls meet. */
  descriptors: number;
  rssMiB: number;
}

async function useOf(name: string): Promise<Use> {
  const pid = here.site.child(name).pid()!;
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const rssMiB = Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) / 1024);
  const descriptors = (await readdir(`/proc/${pid}/fd`)).length - virshDescriptors * (await virshProcessesOf(pid));
  return { descriptors, rssMiB };
}

async function virshProcessesOf(pid: number): Promise<number> {
  const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ').filter((child) => child !== '');
  const names = await Promise.all(children.map((child) => readFile(`/proc/${child}/comm`, 'utf8').catch(() => '')));
  return names.filter((name) => name === 'virsh\n').length;
}

/** How many descriptors a process has of each kind, for a failure's message. */
async function kindsOf(name: string): Promise<string> {
  const folder = `/proc/${here.site.child(name).pid()}/fd`;
  const targets = await Promise.all((await readdir(folder)).map((fd) => readlink(`${folder}/${fd}`).catch(() => 'closed')));
  const kinds = Map.groupBy(targets, (target) => target.replace(/:\[\d+\]$/, ''));
  return [...kinds].map(([kind, { length }]) => `${length} ${kind}`).join(', ');
}

interface Session {
  begun: Promise<void>;
  answer(): Promise<string>;
}

/** A command that says that it runs, and then returns what it is told. */
function open(vm: string, n: number): Session {
  const { api } = here.site.ready;
  const begun = Promise.withResolvers<void>();
  const input = new PassThrough();
  let output = '';
  const command = ['sh', '-c', 'echo ready; read -r x; echo "got $x"; exit 7'];
  const stream = new Stream(
    { api, key: here.key },
    {
      path: `/v1/vms/${vm}/exec`,
      query: [...command.map((word): [string, string] => ['command', word]), ['stdin', 'true']],
      input,
      onOutput: async (_, bytes) => {
        output += Buffer.from(bytes).toString();
        begun.resolve();
      },
    },
  );
  const ended = stream.run();
  ended.catch(begun.reject);
  return {
    begun: begun.promise,
    async answer() {
      input.end(`line ${n}\n`);
      const code = exitCodeOf(await ended);
      return `${output.trim().replace('\n', ', ')}, ${code}`;
    },
  };
}

test(`${sessions} sessions at once on one host each have their own input, output and end, and leave nothing`, async () => {
  const vms: string[] = [];
  for (let n = 0; n < guests; n += 1)
    vms.push(await startVm(here, `guest${n}`, { resources: { vcpus: 1, memoryMiB: 160, diskMiB: 64 } }));
  const workers = ['host1/worker', 'api'];
  const before = await Promise.all(workers.map(useOf));
  const after: Use[][] = [];
  const tookMs: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const sinceMs = performance.now();
    const all: Session[] = [];
    // Each of them stays until all are there.
    while (all.length < sessions) {
      const some = Array.from({ length: atOnce }, (_, n) => open(vms[n % guests]!, all.length + n));
      all.push(...some);
      await Promise.all(some.map(({ begun }) => begun));
    }
    tookMs.push(Math.round(performance.now() - sinceMs));
    // One more is refused, and takes no place from those that are there.
    await expect(open(vms[0]!, sessions).begun).rejects.toThrow(/rate-limited/);
    const answers = await Promise.all(all.map((one) => one.answer()));
    expect(answers).toEqual(all.map((_, n) => `ready, got line ${n}, 7`));
    // A guest's port is closed some seconds after its last session. The first round starts what is kept, such as virsh processes.
    if (after.length === 0) await delay(portClosedMs);
    else
      await expect
        .poll(async () => (await useOf('host1/worker')).descriptors, { timeout: 30_000 })
        .toBeLessThanOrEqual(after[0]![0]!.descriptors + keptConnections)
        .catch(async (error: unknown) => {
          throw new Error(`round ${round} left more than the first: ${await kindsOf('host1/worker')}`, { cause: error });
        });
    await delay(1000);
    after.push(await Promise.all(workers.map(useOf)));
  }
  for (const [index, worker] of workers.entries()) {
    const uses = [before[index]!, ...after.map((each) => each[index]!)];
    console.log(`${worker}: ${uses.map(({ descriptors, rssMiB }) => `${descriptors} descriptors, ${rssMiB} MiB`).join('; ')}`);
    expect(uses.at(-1)!.descriptors).toBeLessThanOrEqual(uses[1]!.descriptors + keptConnections);
    // What one round has left would be there again after each.
    expect(uses.at(-1)!.rssMiB).toBeLessThan(Math.max(...uses.slice(0, settledRounds + 1).map(({ rssMiB }) => rssMiB)) + 25);
  }
  console.log(`all ${sessions} ran after ${tookMs.join(', ')} ms`);
  for (const vm of vms) await removeVm(here, vm);
}, 1_200_000);
