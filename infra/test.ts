import { mkdtemp, realpath } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { projects } from '../test/projects.ts';
import { until } from './site/until.ts';
import { findLeaks, readTraces, runMarker } from './testing/leaks.ts';
import { runQuickChecks } from './testing/quick.ts';
import { type StepResult, untilInterrupted } from './testing/step.ts';
import { sweep } from './testing/sweep.ts';
import { runProjects } from './testing/vitest.ts';

/**
 * Every check there is, but for projects that are only run by their name: `npm test [PROJECT…]`. Ends with the line "N passed, N failed"; format, types, each test, and
 * that nothing was left behind, count one each. Everything temporary is in one folder, and everything that is started
 * carries its name, so that what is left can be found, and removed when the run is interrupted.
 */
const projectDeadlineMs = 60 * 60_000;
/** What was stopped may take a moment to be gone. */
const settleMs = 15_000;

const stop = untilInterrupted();
const before = await readTraces();
const folder = await realpath(await mkdtemp(join(tmpdir(), 'berth-test-run-')));
process.env.TMPDIR = folder;
process.env[runMarker] = folder;

let passed = 0;
const failures: string[] = [];

function count(result: StepResult): void {
  const fine = result.exitCode === 0;
  console.log(`${fine ? 'ok    ' : 'FAILED'} ${result.name}, ${result.seconds.toFixed(1)} s`);
}

function countStep(result: StepResult): void {
  if (result.exitCode === 0) passed += 1;
  else failures.push(result.name);
}

async function quickChecks(): Promise<void> {
  const { format, types, tests } = await runQuickChecks(stop, (result) => {
    count(result);
    if (result.exitCode !== 0) console.log(result.output.trimEnd());
  });
  countStep(format);
  countStep(types);
  countTests(tests);
}

function countTests(result: Awaited<ReturnType<typeof runProjects>>): void {
  passed += result.passed;
  failures.push(...result.failures, ...result.problems);
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

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !(name in projects));
if (unknown.length > 0)
  throw new Error(`There are no test projects ${unknown.join(', ')}; there are ${Object.keys(projects).join(', ')}`);
try {
  if (asked.length === 0) await quickChecks();
  const whole = Object.entries(projects).flatMap(([name, { quick, onDemand }]) => (quick || onDemand ? [] : [name]));
  for (const name of asked.length > 0 ? asked : whole) {
    if (stop.aborted) break;
    const result = await runProjects([name], { deadlineMs: projectDeadlineMs, live: true }, stop);
    count(result);
    countTests(result);
  }
  if (!stop.aborted) await checkLeaks();
} finally {
  await sweep(folder);
}
if (stop.aborted) failures.push('all of it: interrupted');
for (const failure of failures) console.log(`failed: ${failure}`);
console.log(`${passed} passed, ${failures.length} failed`);
process.exitCode = stop.aborted ? 130 : failures.length > 0 ? 1 : 0;
