import { loadavg } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { askMove, faultOf, type MigrationAnswer, type MoveOrder, move, moveOver, readMove, readsPast } from '../site/moves.ts';
import {
  abandon,
  answersAgent,
  finish,
  isLost,
  lastWords,
  nothingLeft,
  onlyAt,
  runningAt,
  type Subject,
  standingAlone,
  vmOf,
  working,
} from '../site/subjects.ts';
import { onHost, openSite, type TestSite } from '../site/the-site.ts';
import { type Choices, choicesOf } from './choices.ts';
import { type Case, migrationCases, type Struck } from './migration-faults.ts';
import type { TortureOptions } from './options.ts';

/** A migration takes about a second and a half here: some moments fall after its end. */
const momentsMs = 2200;
/** The number of migrations of one VM before its disks are checked and it is ended. */
const movesPerVm = 6;
/** Most move live, which is the subject of the table of faults; the others meet the same faults. */
const ways: MoveOrder[] = [
  { mode: 'live' },
  { mode: 'live' },
  { mode: 'live' },
  { mode: 'live', moveDisk: true },
  { mode: 'cold' },
  { mode: 'cold', moveDisk: true },
];

interface Outcome {
  case: string;
  vm: string;
  migration: string | null;
  way: string;
  afterMs: number;
  state: string;
  seconds: number;
  error: string | null;
  counted: number;
}

interface Run {
  run: number;
  name: string;
  act: Case;
}

/**
 * Migrations under the faults of migration-faults.ts, each case once before any is repeated. After each: one copy, where
 * the ledger says, or a VM reported as lost; nothing left on other hosts; a count without gap or repetition, which
 * continues; and the next migration works. A guest that its emulation killed after a move, and that Berth has reported, is
 * counted as `silent` apart from what is wrong, and is not ok either. Runs execute side by side on `lanes` independent
 * sites of three hosts each: the choices of a run depend on the seed and its number alone.
 */
export async function tortureMigrations({ runs, seed, cases, lanes }: TortureOptions): Promise<boolean> {
  const names = cases ?? Object.keys(migrationCases);
  for (const name of names) if (!Object.hasOwn(migrationCases, name)) throw new Error(`there is no case ${JSON.stringify(name)}`);
  const all = Array.from({ length: runs }, (_, run): Run => {
    const name = choicesOf(seed, -1 - Math.floor(run / names.length)).shuffled(names)[run % names.length]!;
    return { run, name, act: migrationCases[name]! };
  });
  // The longest cases begin first: they mostly wait, and the others run meanwhile.
  const queue = all.toSorted((a, b) => Number(b.act.lasts ?? 0) - Number(a.act.lasts ?? 0));
  const tally: Tally = { wrong: 0, silent: 0, outcomes: {} };
  const startedMs = Date.now();
  const sites: TestSite[] = [];
  const sum = (more: Record<string, unknown>): void => {
    const { wrong, silent, outcomes } = tally;
    const done = Object.values(outcomes).reduce((count, one) => count + one, wrong + silent);
    const seconds = Math.round((Date.now() - startedMs) / 1000);
    print({ name: 'torture.migrate', seed, runs, done, wrong, silent, outcomes, seconds, ...more });
  };
  // A site that isn't stopped is a machine full of namespaces.
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => {
      sum({ endedBy: name });
      void Promise.allSettled(sites.map((site) => site.stop())).then(() => process.exit(130));
    });
  const open = async (): Promise<TestSite> => {
    const site = await openSite();
    sites.push(site);
    return site;
  };
  await Promise.all(Array.from({ length: Math.min(lanes, runs) }, () => lane(open, queue, seed, tally)));
  sum({});
  return tally.wrong + tally.silent === 0;
}

interface Tally {
  wrong: number;
  silent: number;
  outcomes: Record<string, number>;
}

/** A site, which executes one run after the other. */
async function lane(open: () => Promise<TestSite>, queue: Run[], seed: number, tally: Tally): Promise<void> {
  const test = await open();
  const fail = (line: Record<string, unknown>, error: unknown, found: Found | null): void => {
    if (found?.silent) tally.silent += 1;
    else tally.wrong += 1;
    const state = found?.silent ? 'silent' : 'wrong';
    print({ ...line, ok: false, state, error: error instanceof Error ? error.message : String(error), ...found });
  };
  let subject: Subject | null = null;
  let moves = 0;
  try {
    const warm = await test.client.submit({ image: 'debian-12', command: ['true'], nodes: 3 });
    await test.client.over(warm.id);
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const { run, name, act } = next;
      try {
        if (act.alone && subject !== null) {
          await finish(test, subject);
          subject = null;
        }
        subject ??= act.alone ? await standingAlone(test) : await working(test);
        const outcome = await strike(test, subject, name, act, choicesOf(seed, run));
        tally.outcomes[outcome.state] = (tally.outcomes[outcome.state] ?? 0) + 1;
        print({ run, ok: true, ...outcome });
        moves += 1;
        if (outcome.state === 'lost' || outcome.state === 'cancelled') subject = null;
        else if (act.alone || moves % movesPerVm === 0) {
          await finish(test, subject);
          subject = null;
        }
      } catch (error) {
        fail({ run, case: name }, error, subject === null ? null : await lookAround(test, subject));
        if (subject !== null) await abandon(test, subject).catch((failure: unknown) => print({ note: String(failure) }));
        subject = null;
      }
    }
    if (subject !== null) await finish(test, subject);
    await nothingLeft(test);
  } catch (error) {
    fail({}, error, null);
  } finally {
    await test.stop();
  }
}

/** The evidence with which to find a cause. */
interface Found {
  /** Berth has reported that the guest is silent since it moved, the guest is, and all else is as required. */
  silent: boolean;
  /** What else is wrong; null: nothing. */
  harm: string | null;
  host: string;
  /** The VM's latest migrations, newest first. */
  migrations: MigrationAnswer[];
  agent: boolean;
  lastWords: string;
  load: number[];
}

async function lookAround(test: TestSite, subject: Subject): Promise<Found | null> {
  const { vm } = subject;
  try {
    const { host } = await vmOf(test, vm);
    const { items } = (await test.client.callWithRetry<{ items: MigrationAnswer[] }>('GET', `/v1/migrations?vm=${vm}&limit=5`))
      .body;
    const said = (await test.client.eventsOf(vm)).some(({ type }) => type === 'berth.vm.silent');
    const agent = await answersAgent(test, host, vm);
    const words = await lastWords(test, host, `/var/lib/berth/vms/${vm}/console.log`);
    const harm = await harmTo(test, subject, host);
    return { silent: said && !agent && harm === null, harm, host, migrations: items, agent, lastWords: words, load: loadavg() };
  } catch (error) {
    // A failure is printed in any case.
    print({ note: `what befell ${vm} can't be looked at: ${String(error)}` });
    return null;
  }
}

/**
 * The checks that don't need the guest: one copy, where the ledger says; nothing left on other hosts; and a count without
 * gaps.
 */
async function harmTo(test: TestSite, { vm, numbers }: Subject, host: string): Promise<string | null> {
  try {
    await runningAt(test, vm, host);
    await onlyAt(test, vm);
    return faultOf(await numbers());
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const print = (line: Record<string, unknown>): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
};

async function strike(test: TestSite, subject: Subject, name: string, act: Case, choices: Choices): Promise<Outcome> {
  const afterMs = act.when === 'before' ? 0 : choices.below(momentsMs);
  const way = choices.one(ways);
  const struck = await stage(test, subject, act, way, choices);
  const before = (await subject.numbers()).length;
  const startedMs = Date.now();
  const order = { ...way, to: struck.to.id };
  const how = `${way.mode}${way.moveDisk ? ' with disks' : ''} ${struck.from.id} to ${struck.to.id}, home ${struck.home.id}`;
  let mend: () => Promise<void> = async () => undefined;
  try {
    if (act.when !== 'during') mend = await act.fault(struck);
    if (act.when === 'first') await delay(afterMs);
    if (act.when === 'first') struck.requested = await askUnlessRefused(test, struck.vm, order);
    else struck.requested = await move(test, struck.vm, order);
    if (act.when === 'during') {
      await delay(afterMs);
      mend = await act.fault(struck);
    }
    // What can't be observed while hosts are partitioned is observed when they are connected again.
    const ended = act.when === 'before' ? await moveOver(test, struck.requested!.id) : null;
    await mend();
    mend = async () => undefined;
    const migration = ended ?? (struck.requested === null ? null : await moveOver(test, struck.requested.id, 300));
    const state = await verify(struck, subject, act, migration, before);
    const counted = state === 'lost' || state === 'cancelled' ? 0 : (await subject.numbers()).length;
    const error = migration?.error == null ? null : `${migration.error.code}: ${migration.error.message}`;
    return {
      case: name,
      vm: struck.vm,
      migration: migration?.id ?? null,
      way: how,
      afterMs,
      state,
      seconds: (Date.now() - startedMs) / 1000,
      error,
      counted,
    };
  } catch (error) {
    const requested = struck.requested === null ? '' : `, ${JSON.stringify(await readMove(test, struck.requested.id))}`;
    const why = error instanceof Error ? error.message : error;
    throw new Error(`${struck.vm}, ${how}, after ${afterMs} ms: ${why}${requested}; ${await whatWaits(test)}`);
  } finally {
    await mend();
  }
}

/** Evidence for an investigation: connections of the hosts on which bytes wait to be read or to be acknowledged. */
async function whatWaits(test: TestSite): Promise<string> {
  const found: string[] = [];
  for (const { id } of test.site.hosts)
    for (const line of (await onHost(test, id, ['ss', '-Htn'])).split('\n')) {
      const [, received = '0', unsent = '0'] = line.trim().split(/\s+/);
      if (Number(received) + Number(unsent) > 0) found.push(`${id}: ${line.trim().replaceAll(/\s+/g, ' ')}`);
    }
  return found.length === 0 ? 'nothing waits on the wire' : found.join('; ');
}

/** Another operation on this VM is in progress: a refusal is an answer as well. */
async function askUnlessRefused(test: TestSite, vm: string, order: MoveOrder): Promise<MigrationAnswer | null> {
  const { status, body } = await askMove(test, vm, order);
  if (status !== 202 && status !== 409) throw new Error(`a migration: ${status} ${JSON.stringify(body)}`);
  return status === 202 ? body : null;
}

/** Where the VM is now, and where it has to move; away from its home first, where the case requires it. */
async function stage(test: TestSite, subject: Subject, act: Case, way: MoveOrder, choices: Choices): Promise<Struck> {
  const { vm } = subject;
  const where = async () => (await test.client.callWithRetry<{ host: string; home: string }>('GET', `/v1/vms/${vm}`)).body;
  let { host, home } = await where();
  if (act.away && host === home) {
    await mustSucceed(test, vm);
    ({ host, home } = await where());
  }
  const others = test.site.hosts.filter(({ id }) => id !== host && !(act.away && id === home));
  const hostOf = (id: string) => test.site.hosts.find((one) => one.id === id)!;
  return { test, subject, vm, from: hostOf(host), to: choices.one(others), home: hostOf(home), way, requested: null };
}

async function mustSucceed(test: TestSite, vm: string): Promise<MigrationAnswer> {
  const migration = await moveOver(test, (await move(test, vm)).id);
  if (migration.state !== 'succeeded')
    throw new Error(`the next migration is ${migration.state}: ${JSON.stringify(migration.error)}`);
  await refuseSilent(test, migration);
  return migration;
}

/**
 * A guest that Berth reports as silent is observed as long as it exists: after two minutes its task is given up, and all of
 * it is removed.
 */
async function refuseSilent(test: TestSite, { id, mode, state }: MigrationAnswer): Promise<void> {
  if (mode !== 'live' || state !== 'succeeded') return;
  for (const untilMs = Date.now() + 90_000; Date.now() < untilMs; await delay(100)) {
    const { guest } = await readMove(test, id);
    if (guest === 'silent') throw new Error(`the guest is silent since ${id}`);
    if (guest !== null) return;
  }
}

/** @returns the outcome for the VM. Throws what is wrong. */
async function verify(
  { test, vm, from }: Struck,
  subject: Subject,
  act: Case,
  migration: MigrationAnswer | null,
  before: number,
): Promise<string> {
  if (act.endsTask) {
    const over = await test.client.over(subject.task!);
    await nothingLeft(test);
    if (over.state !== 'cancelled') throw new Error(`the task is ${over.state}, and was to be cancelled`);
    return 'cancelled';
  }
  if (act.mayLose && (await isLost(test, subject))) {
    await nothingLeft(test);
    return 'lost';
  }
  // A second migration that was permitted, and came after the first.
  const last = await lastMove(test, vm, migration);
  const where = last === null ? from.id : last.state === 'succeeded' ? last.to : last.from;
  await runningAt(test, vm, where ?? '');
  await onlyAt(test, vm);
  if (last !== null) await refuseSilent(test, last);
  const numbers = await readsPast(subject.numbers, Math.max(before, (await subject.numbers()).length));
  const fault = faultOf(numbers);
  if (fault !== null) throw new Error(fault);
  await mustSucceed(test, vm);
  return migration?.state ?? 'refused';
}

async function lastMove(test: TestSite, vm: string, migration: MigrationAnswer | null): Promise<MigrationAnswer | null> {
  const { body } = await test.client.callWithRetry<{ items: MigrationAnswer[] }>('GET', `/v1/migrations?vm=${vm}&limit=1`);
  const last = body.items[0] ?? migration;
  if (last === null) return null;
  return last.id === migration?.id ? readMove(test, last.id) : moveOver(test, last.id);
}
