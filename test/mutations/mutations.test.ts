import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { runStep } from '../../infra/testing/step.ts';
import { tierVariable } from '../tier.ts';
import { mutations } from './mutations.ts';

/** Breaks one guarantee after the other in a copy of this checkout, and runs the test that holds it in `npm test`. */
const root = join(import.meta.dirname, '../..');
const notCopied = new Set(['node_modules', '.git', 'dist']);
const deadlineMs = 8 * 60_000;

let copy: string;
beforeAll(async () => {
  copy = await mkdtemp(join(tmpdir(), 'berth-mutations-'));
  await cp(root, copy, { recursive: true, filter: (path) => !notCopied.has(relative(root, path)) });
  await symlink(join(root, 'node_modules'), join(copy, 'node_modules'));
});
afterAll(() => rm(copy, { recursive: true, force: true }));

const reportSchema = z.object({ numPassedTests: z.number(), numFailedTests: z.number() });

test.each(mutations)('$test fails where this does not hold: $guarantee', async ({ file, find, replace, project, ...held }) => {
  const path = join(copy, file);
  const code = await readFile(path, 'utf8');
  expect(code.split(find), `${file} has the text once`).toHaveLength(2);
  await writeFile(
    path,
    code.replace(find, () => replace),
  );
  try {
    const report = join(copy, 'report.json');
    await rm(report, { force: true });
    const argv = [
      join(root, 'node_modules/vitest/vitest.mjs'),
      'run',
      `--root=${copy}`,
      '--reporter=json',
      '--reporter=verbose',
      `--outputFile=${report}`,
      '--project',
      project,
      `test/${held.test}`,
      ...(held.only === undefined ? [] : ['-t', held.only]),
    ];
    const env = { [tierVariable]: 'quick' };
    const { output } = await runStep({ name: held.test, argv, deadlineMs, env }, new AbortController().signal);
    const text = await readFile(report, 'utf8').catch(() => null);
    expect(text, output).not.toBeNull();
    // A file that cannot be loaded has no test that failed, and shows nothing.
    const { numFailedTests, numPassedTests } = reportSchema.parse(JSON.parse(text!));
    console.log(`${held.test}: ${numFailedTests} failed, ${numPassedTests} passed: ${held.only ?? 'all of it'}`);
    expect(numFailedTests, output).toBeGreaterThan(0);
  } finally {
    await writeFile(path, code);
  }
});
