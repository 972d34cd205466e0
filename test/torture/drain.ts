import { setTimeout as delay } from 'node:timers/promises';
import type { Host } from '../../infra/site/host/host.ts';
import type { TaskAnswer } from '../site/client.ts';
import {
  askDrain,
  crowded,
  type DrainAnswer,
  earliestDrain,
  gatherOn,
  isOver,
  openAgain,
  secondsFrom,
  setSchedulable,
  untilDrain,
} from '../site/drains.ts';
import { copiesOf, counter, countsPast, faultOf, numbersOf } from '../site/moves.ts';
import { answersAgent } from '../site/subjects.ts';
import { leftovers, onHost, openSite, type TestSite } from '../site/the-site.ts';
import { type Choices, choicesOf } from './choices.ts';
import type { TortureOptions } from './options.ts';

const subjects = 3;
const subject = counter(1_000_000, 128);
/**
 * Deadlines range from a little before the earliest that is promised, where they have to be refused, to this long after it.
 */
const spareMs = { before: 2_000, after: 13_000 } as const;
/** A drain of three VMs takes about ten seconds here. */
const momentsMs = 10_000;
/** The promised bound on the time between empty and the deadline: a fraction of the prediction, and a little. */
const idle = { part: 0.25, s: 5 } as const;

interface Struck {
  test: TestSite;
  host: Host;
  other: Host;
  drain: string;
  vm: string;
  choices: Choices;
}

/** A fault of a drain at a random moment after its start; returns the function that repairs it. */
type Fault = (struck: Struck) => Promise<() => Promise<void>>;

const nothing = async (): Promise<void> => undefined;

const killed = (name: (struck: Struck) => string): Fault => {
  return async (struck) => {
    const child = struck.test.site.child(name(struck));
    const restarts = child.restarts();
    child.kill('SIGKILL');
    return () => child.untilReadyAgain(restarts, 90_000);
  };
};

/** The guest gets time to begin; then it writes as much as it can for as long as a drain takes. */
const dirty: Fault = async ({ test, vm }) => {
  const { host } = await place(test, vm);
  const script = 'mount -t tmpfs none /mnt; timeout 20 sh -c "while :; do head -c 24m /dev/urandom >/mnt/x; done"; umount /mnt';
  const start = { execute: 'guest-exec', arguments: { path: '/bin/sh', arg: ['-c', script] } };
  // It may be moving at this moment, and then no fault is injected.
  await onHost(test, host, ['virsh', '-q', 'qemu-agent-command', vm, JSON.stringify(start)]).catch(() => '');
  return () => delay(20_000);
};

/** The processes of a host that take part in a migration are killed at once, and restart. */
const targetDies: Fault = async (struck) => {
  const mends: (() => Promise<void>)[] = [];
  for (const name of ['libvirtd', 'worker']) mends.push(await killed(({ other }) => `${other.id}/${name}`)(struck));
  return async () => {
    for (const mend of mends) await mend();
  };
};

const requested = (act: string, body?: object): Fault => {
  return async ({ test, drain }) => {
    // It may have ended already: then it is a conflict, and nothing changes.
    await test.operator.callWithRetry('POST', `/v1/drains/${drain}/${act}`, body);
    return nothing;
  };
};

const faults: Record<string, Fault> = {
  none: async () => nothing,
  control: killed(() => 'control'),
  sourceWorker: killed(({ host }) => `${host.id}/worker`),
  targetWorker: killed(({ other }) => `${other.id}/worker`),
  api: killed(() => 'api'),
  targetDies,
  dirty,
  partition: async ({ host, other }) => {
    const mend = await host.partition([other.address]);
    return async () => {
      await delay(12_000);
      await mend();
    };
  },
  pauseAndResume: async (struck) => {
    await requested('pause')(struck);
    return async () => {
      await delay(3000);
      await requested('resume')(struck);
    };
  },
  cancel: requested('cancel', {}),
  cancelAndGoBack: requested('cancel', { goBack: true }),
};

/**
 * Drains against random deadlines, each with a fault at a random moment while it waits or moves. After each: every VM runs
 * once, where the ledger says, and continues to count without gap or repetition; the host is empty by the ledger and the
 * hypervisors, or the drain lists what remains, or it was cancelled and the host is open. Without a fault, the host was
 * empty by its deadline.
 */
export async function tortureDrains({ runs, seed, cases }: TortureOptions): Promise<boolean> {
  const names = cases ?? Object.keys(faults);
  for (const name of names) if (!Object.hasOwn(faults, name)) throw new Error(`there is no case ${JSON.stringify(name)}`);
  const test = await openSite(3, crowded);
  const tally: Record<string, number> = {};
  const undisturbed: { idleS: number; predictedS: number }[] = [];
  let wrong = 0;
  try {
    const specs = Array.from({ length: subjects }, () => subject);
    const tasks = await gatherOn(test, test.site.hosts[0]!.id, specs);
    await closeAll(test);
    for (let run = 0; run < runs; run += 1) {
      const choices = choicesOf(seed, run);
      const name = choices.one(names);
      try {
        const line = await strike(test, tasks, name, choices);
        tally[line.state] = (tally[line.state] ?? 0) + 1;
        const { idleS, predictedS, harm } = line;
        if (name === 'none' && idleS != null && predictedS != null) undisturbed.push({ idleS, predictedS });
        if (harm != null) wrong += 1;
        print({ run, ok: harm == null, case: name, ...line });
        await replaceSilent(test, tasks);
      } catch (error) {
        wrong += 1;
        print({ run, ok: false, case: name, error: error instanceof Error ? error.message : String(error) });
      }
    }
    for (const { id } of tasks) await test.client.callWithRetry('DELETE', `/v1/tasks/${id}`);
    for (const { id } of tasks) await test.client.over(id);
    await delay(5000);
    const left = await leftovers(test);
    if (left.length > 0) throw new Error(`left behind: ${left.join('; ')}`);
  } catch (error) {
    wrong += 1;
    print({ ok: false, error: error instanceof Error ? error.message : String(error) });
  } finally {
    await test.stop();
  }
  const idleS = undisturbed.length === 0 ? null : middle(undisturbed.map((one) => one.idleS));
  const allowedS = undisturbed.length === 0 ? null : middle(undisturbed.map(({ predictedS }) => idle.part * predictedS + idle.s));
  print({ name: 'torture.drain', seed, runs, wrong, outcomes: tally, calm: undisturbed.length, idleS, allowedS });
  return wrong === 0 && (idleS === null || allowedS === null || idleS <= allowedS);
}

const middle = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

const print = (line: Record<string, unknown>): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
};

interface Line {
  state: string;
  idleS?: number | null;
  predictedS?: number | null;
  /** Damage to VMs that no drain may cause. */
  harm?: string | null;
  [detail: string]: unknown;
}

async function strike(test: TestSite, tasks: TaskAnswer[], name: string, choices: Choices): Promise<Line> {
  const host = await fullest(test, tasks);
  const other = choices.one(test.site.hosts.filter(({ id }) => id !== host.id));
  const order = { strategy: choices.one(['auto', 'sequential', 'parallel'] as const) };
  const earliestMs = await earliestDrain(test, host.id, order);
  const asking = await askDrain(
    test,
    host.id,
    earliestMs - spareMs.before + choices.below(spareMs.before + spareMs.after),
    order,
  );
  if (asking === null) return { state: 'refused' };
  const phase = choices.one(['waiting', 'moving']);
  await untilDrain(test, asking.id, ({ state }) => phase === 'waiting' || state !== 'waiting', 180);
  const afterMs = choices.below(momentsMs);
  await delay(afterMs);
  const struck: Struck = { test, host, other, drain: asking.id, vm: choices.one(tasks).vms[0]!, choices };
  const mend = await faults[name]!(struck);
  await mend();
  const drain = await untilDrain(test, asking.id, isOver, 300);
  const harm = await verify(test, host, tasks, drain).then(
    () => null,
    (error: Error) => error.message,
  );
  await openAgain(test, host.id);
  await setSchedulable(test, [host.id], false);
  const idleS = drain.emptiedAt === null ? null : secondsFrom(drain.emptiedAt, drain.deadline);
  if (name === 'none' && (drain.state !== 'empty' || idleS === null || idleS < 0))
    throw new Error(
      `nothing befell ${drain.id}, and it is ${drain.state}, ${idleS} s before its deadline: ${JSON.stringify(drain)}`,
    );
  const tookS = drain.emptiedAt === null || drain.startedAt === null ? null : secondsFrom(drain.startedAt, drain.emptiedAt);
  const { state, predictedS, boundS, remaining, progress } = drain;
  return { state, phase, afterMs, moved: progress.moved, idleS, predictedS, boundS, tookS, remaining, harm };
}

/**
 * A guest whose kernel has died runs no more, whatever its hypervisor reports: it must not count against the next drain.
 */
async function replaceSilent(test: TestSite, tasks: TaskAnswer[]): Promise<void> {
  for (const [i, { id, vms }] of tasks.entries()) {
    const { host } = await place(test, vms[0]!);
    if (await answersAgent(test, host, vms[0]!)) continue;
    print({ silent: vms[0], host });
    await test.client.callWithRetry('DELETE', `/v1/tasks/${id}`);
    tasks[i] = (await gatherOn(test, host, [subject]))[0]!;
    await closeAll(test);
  }
}

/** Nothing new is placed: no host makes templates of what it has booted. */
const closeAll = (test: TestSite): Promise<void> =>
  setSchedulable(
    test,
    test.site.hosts.map(({ id }) => id),
    false,
  );

async function fullest(test: TestSite, tasks: TaskAnswer[]): Promise<Host> {
  const at = await Promise.all(tasks.map(async ({ vms }) => (await place(test, vms[0]!)).host));
  const count = ({ id }: Host) => at.filter((one) => one === id).length;
  return test.site.hosts.toSorted((a, b) => count(b) - count(a))[0]!;
}

const place = async (test: TestSite, vm: string) =>
  (await test.operator.callWithRetry<{ host: string; state: string }>('GET', `/v1/vms/${vm}`)).body;

async function verify(test: TestSite, host: Host, tasks: TaskAnswer[], drain: DrainAnswer): Promise<void> {
  for (const { id, vms } of tasks) {
    const vm = vms[0]!;
    await settled(test, vm);
    const numbers = await numbersOf(test, id);
    const fault = faultOf(await countsPast(test, id, numbers.length + 3));
    if (fault !== null) throw new Error(`${vm}: ${fault}`);
    const here = (await copiesOf(test, vm)).some((copy) => copy.host === host.id);
    if (here && drain.state === 'empty') throw new Error(`${host.id} is said to be empty, and has ${vm}`);
    if (here && drain.state === 'incomplete' && !drain.remaining.some(({ what }) => what === vm))
      throw new Error(`${vm} remains on ${host.id}, and the drain does not say so`);
  }
}

/** One copy, which runs, where the ledger says. Clean-up after a fault may take a moment. */
async function settled(test: TestSite, vm: string): Promise<void> {
  for (const untilMs = Date.now() + 60_000; ; await delay(500)) {
    const { host, state } = await place(test, vm);
    const copies = await copiesOf(test, vm);
    if (state === 'running' && copies.length === 1 && copies[0]!.host === host && copies[0]!.state === 'running') return;
    if (Date.now() > untilMs) throw new Error(`${vm} is ${state} at ${host}; the hypervisors have ${JSON.stringify(copies)}`);
  }
}
