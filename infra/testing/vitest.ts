import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { z } from 'zod';
import { type FileTime, fileTimesVariable } from './file-times.ts';
import { runStep, type StepResult } from './step.ts';

export interface Failure {
  /** Path relative to the repository's root. */
  file: string;
  /** Its file, its name, and the first line of the message. */
  line: string;
}

export interface ProjectResult extends StepResult {
  passed: number;
  files: FileTime[];
  failures: Failure[];
  /** Failures other than tests: no file, a file that can't be loaded, a skipped test. */
  problems: string[];
}

/** The part of vitest's JSON report that is read here. */
const reportSchema = z.object({
  numPassedTests: z.number(),
  numPendingTests: z.number(),
  numTodoTests: z.number(),
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      message: z.string(),
      assertionResults: z.array(
        z.object({ status: z.string(), fullName: z.string(), failureMessages: z.array(z.string()).nullish() }),
      ),
    }),
  ),
});
type Report = z.infer<typeof reportSchema>;

const maxWhyChars = 400;

export interface ProjectOptions {
  deadlineMs: number;
  live: boolean;
  /** Runs only these of their files; default: all. */
  files?: readonly string[];
}

const timesReporter = 'infra/testing/file-times.ts';
const fileTimeSchema = z.object({ file: z.string(), seconds: z.number() });

/** Runs vitest on the named projects of test/projects.ts, and counts results. */
export async function runProjects(
  names: readonly string[],
  { files = [], ...options }: ProjectOptions,
  stop: AbortSignal,
): Promise<ProjectResult> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-report-'));
  const reportFile = join(folder, 'report.json');
  const timesFile = join(folder, 'times');
  try {
    const reporters = ['default', 'json', timesReporter].map((name) => `--reporter=${name}`);
    const argv = [
      'node_modules/vitest/vitest.mjs',
      'run',
      ...reporters,
      `--outputFile.json=${reportFile}`,
      ...names.flatMap((name) => ['--project', name]),
      ...files,
    ];
    const env = { [fileTimesVariable]: timesFile };
    const result = await runStep({ name: `tests: ${[...names, ...files].join(', ')}`, argv, env, ...options }, stop);
    return { ...result, ...judge(result, await readReport(reportFile)), files: await readTimes(timesFile) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** null where the file doesn't exist. */
async function readOrNull(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

async function readReport(path: string): Promise<Report | null> {
  const text = await readOrNull(path);
  return text === null ? null : reportSchema.parse(JSON.parse(text));
}

async function readTimes(path: string): Promise<FileTime[]> {
  const lines = ((await readOrNull(path)) ?? '').split('\n').filter((line) => line !== '');
  return lines.map((line) => fileTimeSchema.parse(JSON.parse(line)));
}

function judge(result: StepResult, report: Report | null): Pick<ProjectResult, 'passed' | 'failures' | 'problems'> {
  if (report === null)
    return {
      passed: 0,
      failures: [],
      problems: [`${result.name}: vitest ended (${result.exitCode ?? 'killed'}) without a report`],
    };
  const problems: string[] = [];
  const skipped = report.numPendingTests + report.numTodoTests;
  if (report.testResults.length === 0) problems.push(`${result.name}: no test file was run`);
  if (skipped > 0) problems.push(`${result.name}: ${skipped} tests were skipped`);
  for (const file of report.testResults)
    if (file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'))
      problems.push(`${file.name}: ${file.message.split('\n')[0] ?? ''}`);
  const failures = report.testResults.flatMap((file) =>
    file.assertionResults
      .filter((test) => test.status === 'failed')
      .map((test) => failureOf(relative('', file.name), test.fullName, test.failureMessages?.[0])),
  );
  // Errors outside any test: an unhandled rejection, a failed teardown.
  if (result.exitCode !== 0 && failures.length === 0 && problems.length === 0)
    problems.push(`${result.name}: vitest ended (${result.exitCode ?? 'killed'}) though no test failed`);
  return { passed: report.numPassedTests, failures, problems };
}

const failureOf = (file: string, name: string, message: string | undefined): Failure => ({
  file,
  line: `${file}: ${name}: ${why(message)}`,
});

/** The first line of a message, which may have many and include a whole stack. */
function why(message: string | undefined): string {
  const lines = (message ?? 'it does not say why').split('\n');
  const stack = lines.findIndex((line) => line.trimStart().startsWith('at '));
  return stripVTControlCharacters(lines.slice(0, stack === -1 ? undefined : stack).join(' ')).slice(0, maxWhyChars);
}
