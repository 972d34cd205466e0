import { setTimeout as delay } from 'node:timers/promises';
import type { Host } from '../../infra/site/host.ts';
import type { TaskAnswer } from '../site/client.ts';
import { copiesOf, counting, countsPast, faultOf, numbersOf } from '../site/moves.ts';
import { leftovers, openSite, type TestSite } from '../site/the-site.ts';
import { type Choices, choicesOf } from './choices.ts';
import type { TortureOptions } from './main.ts';

const subjects = 3;
const endless = 1_000_000;
/** Beyond the earliest time that is promised. */
const spareMs = 15_000;
/** A drain of three VMs takes about ten seconds here. */
const momentsMs = 10_000;

interface DrainAnswer {
  id: string;
  state: string;
  deadline: string;
  predictedS: number | null;
  boundS: number | null;
  startedAt: string | null;
  emptiedAt: string | null;
  remaining: { what: string; why: string }[];
}

interface Struck {
  test: TestSite;
  host: Host;
  other: Host;
  drain: string;
  choices: Choices;
}

/** What befalls a drain at a random moment after its start; returns what puts it right again. */
type Fault = (struck: Struck) => Promise<() => Promise<void>>;

const nothing = async (): Promise<void> => undefined;

const killed = (name: (struck: Struck) => string): Fault => {
  return async (struck) => {
    const child = struck.test.site.child(name(struck));
    const restarts = child.restarts();
    child.kill('SIGKILL');
    return () => child.servesAgain(restarts, 90_000);
  };
};

const asked = (act: string, body?: object): Fault => {
  return async ({ test, drain }) => {
    // It may be over already: then it is a conflict, and nothing changes.
    await test.operator.insist('POST', `/v1/drains/${drain}/${act}`, body);
    return nothing;
  };
};

const faults: Record<string, Fault> = {
  none: async () => nothing,
  control: killed(() => 'control'),
  sourceWorker: killed(({ host }) => `${host.id}/worker`),
  targetWorker: killed(({ other }) => `${other.id}/worker`),
  api: killed(() => 'api'),
  partition: async ({ host, other }) => {
    const mend = await host.cutOff([other.address]);
    return async () => {
      await delay(12_000);
      await mend();
    };
  },
  pauseAndResume: async (struck) => {
    await asked('pause')(struck);
    return async () => {
      await delay(3000);
      await asked('resume')(struck);
    };
  },
  cancel: asked('cancel', {}),
  cancelAndGoBack: asked('cancel', { goBack: true }),
};

/**
 * Drains against random deadlines, each struck by something at a random moment. After each: every VM runs once, where the
 * ledger says, and counts on without gap or repetition; the host is empty by all accounts, or the drain says what
 * remains, or was called off and the host is open.
 */
export async function tortureDrains({ runs, seed, cases }: TortureOptions): Promise<boolean> {
  const names = cases ?? Object.keys(faults);
  for (const name of names) if (!Object.hasOwn(faults, name)) throw new Error(`there is no case ${JSON.stringify(name)}`);
  const test = await openSite();
  const tally: Record<string, number> = {};
  const idleS: number[] = [];
  let wrong = 0;
  try {
    const tasks = await Promise.all(Array.from({ length: subjects }, () => counting(test, endless, 128)));
    for (let run = 0; run < runs; run += 1) {
      const choices = choicesOf(seed, run);
      const name = choices.one(names);
      try {
        const line = await strike(test, tasks, name, choices);
        tally[line.state] = (tally[line.state] ?? 0) + 1;
        if (name === 'none' && line.idleS !== null) idleS.push(line.idleS);
        print({ run, ok: true, case: name, ...line });
      } catch (error) {
        wrong += 1;
        print({ run, ok: false, case: name, error: error instanceof Error ? error.message : String(error) });
      }
    }
    for (const { id } of tasks) await test.client.insist('DELETE', `/v1/tasks/${id}`);
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
  print({ name: 'torture.drain', seed, runs, wrong, outcomes: tally, idleS });
  return wrong === 0;
}

const print = (line: Record<string, unknown>): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
};

async function strike(test: TestSite, tasks: TaskAnswer[], name: string, choices: Choices) {
  const host = await fullest(test, tasks);
  const other = choices.one(test.site.hosts.filter(({ id }) => id !== host.id));
  const asking = await ask(test, host, choices.below(spareMs));
  if (asking === null) return { state: 'refused', idleS: null };
  await until(test, asking.id, (drain) => drain.state !== 'waiting', 180);
  const afterMs = choices.below(momentsMs);
  await delay(afterMs);
  const struck: Struck = { test, host, other, drain: asking.id, choices };
  const mend = await faults[name]!(struck);
  await mend();
  const drain = await until(test, asking.id, ({ state }) => ['empty', 'incomplete', 'cancelled'].includes(state), 300);
  await verify(test, host, tasks, drain);
  await test.operator.insist('PATCH', `/v1/hosts/${host.id}`, { schedulable: true, acceptsMigrations: true });
  const idleS = drain.emptiedAt === null ? null : (Date.parse(drain.deadline) - Date.parse(drain.emptiedAt)) / 1000;
  return { state: drain.state, afterMs, idleS, predictedS: drain.predictedS, boundS: drain.boundS, remaining: drain.remaining };
}

async function fullest(test: TestSite, tasks: TaskAnswer[]): Promise<Host> {
  const at = await Promise.all(tasks.map(async ({ vms }) => (await place(test, vms[0]!)).host));
  const count = ({ id }: Host) => at.filter((one) => one === id).length;
  return test.site.hosts.toSorted((a, b) => count(b) - count(a))[0]!;
}

const place = async (test: TestSite, vm: string) =>
  (await test.operator.insist<{ host: string; state: string }>('GET', `/v1/vms/${vm}`)).body;

/** null: it was refused beforehand. */
async function ask(test: TestSite, host: Host, spare: number): Promise<DrainAnswer | null> {
  const path = `/v1/hosts/${host.id}/drains`;
  const hurried = await test.operator.insist<{ detail: string }>('POST', path, { deadline: new Date().toISOString() });
  const earliest = Date.parse(/The earliest is (\S+Z)\./.exec(hurried.body.detail)?.[1] ?? '');
  if (Number.isNaN(earliest)) throw new Error(`no earliest time in ${JSON.stringify(hurried.body)}`);
  const deadline = new Date(earliest + spare).toISOString();
  const answer = await test.operator.insist<DrainAnswer & { code?: string }>('POST', path, { deadline });
  if (answer.body.code === 'drain-impossible') return null;
  if (answer.status !== 202) throw new Error(`drain: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
}

async function until(test: TestSite, id: string, met: (drain: DrainAnswer) => boolean, seconds: number): Promise<DrainAnswer> {
  for (const untilMs = Date.now() + seconds * 1000; ; await delay(100)) {
    const { body } = await test.operator.insist<DrainAnswer>('GET', `/v1/drains/${id}`);
    if (met(body)) return body;
    if (Date.now() > untilMs) throw new Error(`${id} is ${body.state} after ${seconds} s: ${JSON.stringify(body)}`);
  }
}

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

/** One copy, which runs, where the ledger says. What is being cleaned up after a fault may take a moment. */
async function settled(test: TestSite, vm: string): Promise<void> {
  for (const untilMs = Date.now() + 60_000; ; await delay(500)) {
    const { host, state } = await place(test, vm);
    const copies = await copiesOf(test, vm);
    if (state === 'running' && copies.length === 1 && copies[0]!.host === host && copies[0]!.state === 'running') return;
    if (Date.now() > untilMs) throw new Error(`${vm} is ${state} at ${host}; the hypervisors have ${JSON.stringify(copies)}`);
  }
}
