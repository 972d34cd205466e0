import { mkdtemp, realpath } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { projects } from '../test/projects.ts';
import { tierVariable } from '../test/tier.ts';
import { until } from './site/until.ts';
import type { FileTime } from './testing/file-times.ts';
import { findLeaks, readTraces, runMarker } from './testing/leaks.ts';
import { runQuickChecks } from './testing/quick.ts';
import { runStep, type StepResult, untilInterrupted } from './testing/step.ts';
import { sweep } from './testing/sweep.ts';
import { type ProjectResult, runProjects } from './testing/vitest.ts';

/**
 * `npm test [PROJECT…]` verifies every guarantee; `npm run test:full [PROJECT…]`, which is this with --full, runs every
 * test (docs/testing.md). Ends with the line "N passed, N failed"; format, copies, types, each test, the torture of a
 * full run, and the check for leaks count one each. All temporary files are in one folder, and all processes are marked
 * with its name, so that leaks can be found, and removed when the run is interrupted.
 */
const projectDeadlineMs = 60 * 60_000;
/** Stopped processes may need a moment to end. */
const settleMs = 15_000;
/** Number of files that a run may retry when a guest may have died of its emulation: docs/decisions/0087. */
const maxSecondTries = 1;
const slowestFiles = 10;
/** Injects one fault after the other at random moments on a real site, in a full run. The seed is derived from the day. */
const torture = { runs: 24, seed: Math.floor(Date.now() / 86_400_000), deadlineMs: 60 * 60_000 };

const fullFlag = '--full';
const began = performance.now();
const stop = untilInterrupted();
const before = await readTraces();
const folder = await realpath(await mkdtemp(join(tmpdir(), 'berth-test-run-')));
process.env.TMPDIR = folder;
process.env[runMarker] = folder;
// npm and tsc keep one in the temporary folder, which would be left behind.
process.env.NODE_DISABLE_COMPILE_CACHE = '1';

let passed = 0;
const failures: string[] = [];
/** Tests that passed when their file was retried, with the failure of the first run. */
const secondTries: string[] = [];
let triesLeft = maxSecondTries;
const steps: { name: string; seconds: number }[] = [];
const files: FileTime[] = [];

function count(result: StepResult): void {
  steps.push(result);
  const fine = result.exitCode === 0;
  console.log(`${fine ? 'ok    ' : 'FAILED'} ${result.name}, ${result.seconds.toFixed(1)} s`);
}

function countStep(result: StepResult): void {
  if (result.exitCode === 0) passed += 1;
  else failures.push(result.name);
}

async function quickChecks(): Promise<void> {
  const report = (result: StepResult): void => {
    count(result);
    if (result.exitCode !== 0) console.log(result.output.trimEnd());
  };
  const { format, copies, types, tests } = await runQuickChecks(stop, report, full ? 'full' : 'quick');
  countStep(format);
  countStep(copies);
  countStep(types);
  countTests(tests);
}

function countTests(result: ProjectResult): void {
  files.push(...result.files);
  passed += result.passed;
  failures.push(...result.failures.map(({ line }) => line), ...result.problems);
}

/** Reruns the files with failures alone. A test that passes then counts as passed, and the retry is reported. */
async function withSecondTry(name: string, first: ProjectResult): Promise<ProjectResult> {
  const files = [...new Set(first.failures.map(({ file }) => file))];
  if (!projects[name]?.emulated || files.length === 0 || first.problems.length > 0 || files.length > triesLeft) return first;
  triesLeft -= files.length;
  console.log(`again: ${files.join(', ')}`);
  const second = await runProjects([name], { deadlineMs: projectDeadlineMs, live: true, files }, stop);
  count(second);
  const { problems } = second;
  const still = new Set(second.failures.map(({ file }) => file));
  const mended = first.failures.filter(({ file }) => problems.length === 0 && !still.has(file));
  secondTries.push(...mended.map(({ line }) => line));
  const left = first.failures.filter((failure) => !mended.includes(failure));
  return { ...first, passed: first.passed + mended.length, failures: left, problems };
}

async function checkLeaks(): Promise<void> {
  let leaks: string[] = [];
  const clean = async (): Promise<boolean> => {
    leaks = await findLeaks(before, folder);
    return leaks.length === 0;
  };
  try {
    await until('everything to be gone', settleMs, clean);
    passed += 1;
  } catch (error) {
    if (leaks.length === 0) throw error;
    for (const leak of leaks) console.log(`left behind: ${leak}`);
    failures.push(`nothing left behind: ${leaks.length} things are`);
  }
}

async function tortureMigrations(): Promise<void> {
  const { runs, seed, deadlineMs } = torture;
  const argv = ['test/torture/main.ts', 'migrate', '--runs', String(runs), '--seed', String(seed)];
  const result = await runStep({ name: `torture migrate, seed ${seed}`, argv, deadlineMs, live: true }, stop);
  count(result);
  countStep(result);
}

function printTimes(): void {
  const line = (name: string, seconds: number): string => `${seconds.toFixed(1).padStart(8)} s  ${name}`;
  console.log('the steps:');
  for (const { name, seconds } of steps) console.log(line(name, seconds));
  console.log(`the slowest ${slowestFiles} test files:`);
  const slowest = files.toSorted((one, other) => other.seconds - one.seconds).slice(0, slowestFiles);
  for (const { file, seconds } of slowest) console.log(line(file, seconds));
  console.log(line('all of it', (performance.now() - began) / 1000));
}

const full = process.argv.includes(fullFlag);
const requested = process.argv.slice(2).filter((argument) => argument !== fullFlag);
if (full) process.env[tierVariable] = 'full';
const unknown = requested.filter((name) => !(name in projects));
if (unknown.length > 0)
  throw new Error(`There are no test projects ${unknown.join(', ')}; there are ${Object.keys(projects).join(', ')}`);
try {
  if (requested.length === 0) await quickChecks();
  const whole = Object.entries(projects).flatMap(([name, { quick, fullOnly }]) => (quick || (fullOnly && !full) ? [] : [name]));
  for (const name of requested.length > 0 ? requested : whole) {
    if (stop.aborted) break;
    const result = await runProjects([name], { deadlineMs: projectDeadlineMs, live: true }, stop);
    count(result);
    countTests(await withSecondTry(name, result));
  }
  if (full && requested.length === 0 && !stop.aborted) await tortureMigrations();
  if (!stop.aborted) await checkLeaks();
} finally {
  await sweep(folder);
}
if (stop.aborted) failures.push('all of it: interrupted');
printTimes();
for (const failure of secondTries) console.log(`passed at the second try: ${failure}`);
for (const failure of failures) console.log(`failed: ${failure}`);
console.log(`${passed} passed, ${failures.length} failed`);
process.exitCode = stop.aborted ? 130 : failures.length > 0 ? 1 : 0;
