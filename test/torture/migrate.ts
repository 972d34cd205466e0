import { setTimeout as delay } from 'node:timers/promises';
import type { TaskAnswer } from '../site/client.ts';
import {
  copiesOf,
  counting,
  countsPast,
  faultOf,
  type MigrationAnswer,
  move,
  moveOver,
  numbersOf,
  readMove,
} from '../site/moves.ts';
import { leftovers, onHost, openSite, type TestSite } from '../site/the-site.ts';
import { type Choices, choicesOf } from './choices.ts';
import type { TortureOptions } from './main.ts';
import { type Case, migrationCases, type Struck } from './migration-faults.ts';

/** A migration takes about a second and a half here: some moments fall behind its end. */
const momentsMs = 2200;
/** So many migrations one VM goes through, before its disks are checked and it is ended. */
const movesPerVm = 6;
const endless = 1_000_000;

interface Outcome {
  case: string;
  afterMs: number;
  state: string;
  seconds: number;
  error: string | null;
  counted: number;
}

/**
 * Migrations under the faults of migration-faults.ts, one after the other, on a site of three hosts. After each: one
 * copy, where the ledger says, or a VM reported as lost; nothing left elsewhere; a count without gap or repetition, which
 * goes on; and the next migration works.
 */
export async function tortureMigrations({ runs, seed, cases }: TortureOptions): Promise<boolean> {
  const names = cases ?? Object.keys(migrationCases);
  for (const name of names) if (!Object.hasOwn(migrationCases, name)) throw new Error(`there is no case ${JSON.stringify(name)}`);
  const test = await openSite();
  // A site that is left standing is a machine full of namespaces.
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => void test.stop().finally(() => process.exit(130)));
  const tally: Record<string, number> = {};
  let wrong = 0;
  try {
    const warm = await test.client.submit({ image: 'debian-12', command: ['true'], nodes: 3 });
    await test.client.over(warm.id);
    let subject: TaskAnswer | null = null;
    let moves = 0;
    for (let run = 0; run < runs; run += 1) {
      const choices = choicesOf(seed, run);
      const name = choices.one(names);
      try {
        subject ??= await counting(test, endless);
        const outcome = await strike(test, subject, name, migrationCases[name]!, choices);
        tally[outcome.state] = (tally[outcome.state] ?? 0) + 1;
        print({ run, ok: true, ...outcome });
        moves += 1;
        if (outcome.state === 'lost' || outcome.state === 'cancelled') subject = null;
        else if (moves % movesPerVm === 0) {
          await finish(test, subject);
          subject = null;
        }
      } catch (error) {
        wrong += 1;
        print({ run, ok: false, case: name, error: error instanceof Error ? error.message : String(error) });
        if (subject !== null) await abandon(test, subject.id);
        subject = null;
      }
    }
    if (subject !== null) await finish(test, subject);
    await nothingLeft(test);
  } catch (error) {
    wrong += 1;
    print({ ok: false, error: error instanceof Error ? error.message : String(error) });
  } finally {
    await test.stop();
  }
  print({ name: 'torture.migrate', seed, runs, wrong, outcomes: tally });
  return wrong === 0;
}

const print = (line: Record<string, unknown>): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
};

async function strike(test: TestSite, subject: TaskAnswer, name: string, act: Case, choices: Choices): Promise<Outcome> {
  const afterMs = act.when === 'before' ? 0 : choices.below(momentsMs);
  const order = choices.below(2);
  const struck = await stage(test, subject, act, order);
  const before = (await numbersOf(test, subject.id)).length;
  const startedMs = Date.now();
  let mend: () => Promise<void> = async () => undefined;
  if (act.when === 'before') mend = await act.fault(struck);
  struck.asked = await move(test, struck.vm, { to: struck.to.id });
  if (act.when === 'during') {
    await delay(afterMs);
    mend = await act.fault(struck);
  }
  try {
    const asked = struck.asked.id;
    // What can't be known while hosts are apart is known when they are together again.
    const ended = act.when === 'before' ? await moveOver(test, asked) : null;
    await mend();
    mend = async () => undefined;
    const migration = ended ?? (await moveOver(test, asked, 300));
    const state = await verify(struck, act, migration, before);
    const counted = (await numbersOf(test, subject.id)).length;
    const error = migration.error === null ? null : `${migration.error.code}: ${migration.error.message}`;
    return { case: name, afterMs, state, seconds: (Date.now() - startedMs) / 1000, error, counted };
  } finally {
    await mend();
  }
}

/** Where the VM is now, and where it is to go; away from its home first, where the case is about that. */
async function stage(test: TestSite, { id }: TaskAnswer, act: Case, order: number): Promise<Struck> {
  const task = await test.client.task(id);
  const vm = task.vms[0]!;
  const home = hostOf(test, (await test.client.insist<{ home: string }>('GET', `/v1/vms/${vm}`)).body.home);
  const here = async () => hostOf(test, (await test.client.insist<{ host: string }>('GET', `/v1/vms/${vm}`)).body.host);
  if (act.away && (await here()).id === home.id) await mustSucceed(test, vm);
  const from = await here();
  const others = test.site.hosts.filter((host) => host.id !== from.id && !(act.away && host.id === home.id));
  return { test, task: id, vm, from, to: others[order % others.length]!, home, asked: null };
}

function hostOf({ site }: TestSite, id: string) {
  const found = site.hosts.find((host) => host.id === id);
  if (found === undefined) throw new Error(`there is no host ${id}`);
  return found;
}

async function mustSucceed(test: TestSite, vm: string): Promise<MigrationAnswer> {
  const migration = await moveOver(test, (await move(test, vm)).id);
  if (migration.state !== 'succeeded')
    throw new Error(`the next migration is ${migration.state}: ${JSON.stringify(migration.error)}`);
  return migration;
}

/** @returns what became of the VM. Throws what is wrong. */
async function verify({ test, task, vm }: Struck, act: Case, migration: MigrationAnswer, before: number): Promise<string> {
  if (act.endsTask) {
    const over = await test.client.over(task);
    await nothingLeft(test);
    if (over.state !== 'cancelled') throw new Error(`the task is ${over.state}, and was to be cancelled`);
    return 'cancelled';
  }
  if (act.mayLose && (await isLost(test, task))) {
    await nothingLeft(test);
    return 'lost';
  }
  // A second one that was in its right, and came after the first.
  const last = await lastMove(test, vm, migration);
  const where = last.state === 'succeeded' ? last.to : last.from;
  const copies = await copiesOf(test, vm);
  if (copies.length !== 1 || copies[0]!.host !== where || copies[0]!.state !== 'running')
    throw new Error(`${last.id} ${last.state} at ${where}, and there is: ${JSON.stringify(copies)}`);
  const ledger = (await test.client.insist<{ host: string; state: string }>('GET', `/v1/vms/${vm}`)).body;
  if (ledger.host !== where || ledger.state !== 'running')
    throw new Error(`the ledger says ${ledger.state} at ${ledger.host}, not ${where}`);
  await onlyAt(test, vm);
  const fault = faultOf(await countsPast(test, task, Math.max(before, (await numbersOf(test, task)).length)));
  if (fault !== null) throw new Error(fault);
  await mustSucceed(test, vm);
  return migration.state;
}

/** Its process was hit: either the task goes on counting, or it has failed and says so. */
async function isLost(test: TestSite, task: string): Promise<boolean> {
  const counted = (await numbersOf(test, task)).length;
  for (const untilMs = Date.now() + 180_000; Date.now() < untilMs; await delay(250)) {
    const { state, error } = await test.client.task(task);
    if (state === 'failed' && error?.code === 'vm-lost') return true;
    if (state === 'failed') throw new Error(`the task failed otherwise: ${JSON.stringify(error)}`);
    if ((await numbersOf(test, task)).length > counted) return false;
  }
  throw new Error('the VM neither goes on nor is it reported as lost');
}

async function lastMove(test: TestSite, vm: string, migration: MigrationAnswer): Promise<MigrationAnswer> {
  const { body } = await test.client.insist<{ items: MigrationAnswer[] }>('GET', `/v1/migrations?vm=${vm}&limit=1`);
  const last = body.items[0] ?? migration;
  return last.id === migration.id ? readMove(test, last.id) : moveOver(test, last.id);
}

/** What is left of the VM at hosts that are neither its own nor its home. A host that was silent cleans up by itself. */
async function onlyAt(test: TestSite, vm: string): Promise<void> {
  const { host, home } = (await test.client.insist<{ host: string; home: string }>('GET', `/v1/vms/${vm}`)).body;
  let found: string[] = [];
  for (const untilMs = Date.now() + 30_000; Date.now() < untilMs; await delay(500)) {
    found = [];
    for (const { id } of test.site.hosts) {
      const folder = (await onHost(test, id, ['sh', '-c', `ls -d /var/lib/berth/vms/${vm} 2>/dev/null || true`])).trim();
      if (folder !== '' && id !== host && id !== home) found.push(`${id}: ${folder}`);
    }
    if (found.length === 0) return;
  }
  throw new Error(`left behind: ${found.join('; ')}`);
}

async function nothingLeft(test: TestSite): Promise<void> {
  let found: string[] = [];
  for (const untilMs = Date.now() + 120_000; Date.now() < untilMs; await delay(500)) {
    found = await leftovers(test);
    if (found.length === 0) return;
  }
  throw new Error(`left behind: ${found.join('; ')}`);
}

/** The disks are sound while the guest holds still; then the count ends, in order, and nothing is left. */
async function finish(test: TestSite, { id, vms }: TaskAnswer): Promise<void> {
  const vm = vms[0]!;
  const { host, home } = (await test.client.insist<{ host: string; home: string }>('GET', `/v1/vms/${vm}`)).body;
  const folder = `/var/lib/berth/vms/${vm}`;
  await onHost(test, host, ['virsh', '-q', 'domfsfreeze', vm]);
  try {
    await onHost(test, home, ['qemu-img', 'check', '-q', '-U', `${folder}/disk.qcow2`]);
    await onHost(test, home, ['e2fsck', '-fn', `${folder}/data.raw`]);
  } finally {
    await onHost(test, host, ['virsh', '-q', 'domfsthaw', vm]);
  }
  const touch = { execute: 'guest-exec', arguments: { path: '/usr/bin/touch', arg: ['/home/task/stop'] } };
  await onHost(test, host, ['virsh', '-q', 'qemu-agent-command', vm, JSON.stringify(touch)]);
  const over = await test.client.over(id);
  if (over.state !== 'succeeded') throw new Error(`the task is ${over.state}: ${JSON.stringify(over.error)}`);
  const written = (await test.client.download(over.outputs[0]!.file)).toString().trim().split('\n');
  const said = await numbersOf(test, id);
  const fault = faultOf(written) ?? faultOf(said);
  if (fault !== null || written.length !== said.length)
    throw new Error(`${fault ?? 'the log and the file differ'}: ${said.length} said, ${written.length} written`);
  await nothingLeft(test);
}

async function abandon(test: TestSite, task: string): Promise<void> {
  await test.client.insist('DELETE', `/v1/tasks/${task}`);
  await test.client.over(task, 300).catch((error: unknown) => print({ note: String(error) }));
}
