import { projects } from '../../test/projects.ts';
import { runStep, type StepResult } from './step.ts';
import { type ProjectResult, runProjects } from './vitest.ts';

/** Takes a minute on a quiet machine, and a full run's properties a quarter of an hour; the deadlines allow for a shared one. */
const deadlineMs = { quick: 10 * 60_000, full: 60 * 60_000 };

export interface QuickResult {
  format: StepResult;
  copies: StepResult;
  types: StepResult;
  tests: ProjectResult;
}

/** Runs format and lint, copies, types, and the tests that need no server in parallel. Calls `report` as each one ends. */
export async function runQuickChecks(
  stop: AbortSignal,
  report: (result: StepResult) => void,
  tier: keyof typeof deadlineMs = 'quick',
): Promise<QuickResult> {
  const done = async <T extends StepResult>(running: Promise<T>): Promise<T> => {
    const result = await running;
    report(result);
    return result;
  };
  const biome = ['node_modules/@biomejs/biome/bin/biome', 'check', '--colors=off', '--error-on-warnings', '.'];
  // Imports that two files have in common are no copy. Six lines of sixty tokens are.
  const copies = [
    ['--format', 'typescript', '--min-lines', '6', '--min-tokens', '60', '--threshold', '0'],
    ['--exit-code', '1', '--no-colors', '--ignore-pattern', 'import (type )?\\{[^}]*\\} from [^;]*;'],
    ['--ignore', '**/node_modules/**,**/generated/**,**/dist/**,**/test/**', '.'],
  ].flat();
  const tsc = ['node_modules/typescript/bin/tsc', '-p', '.'];
  const quick = Object.keys(projects).filter((name) => projects[name]?.quick);
  const [format, found, types, tests] = await Promise.all([
    done(runStep({ name: 'format and lint', argv: biome, deadlineMs: deadlineMs.quick }, stop)),
    done(
      runStep(
        { name: 'copies', program: 'node_modules/jscpd-linux-x64-gnu/bin/jscpd', argv: copies, deadlineMs: deadlineMs.quick },
        stop,
      ),
    ),
    done(runStep({ name: 'types', argv: tsc, deadlineMs: deadlineMs.quick }, stop)),
    done(runProjects(quick, { deadlineMs: deadlineMs[tier], live: false }, stop)),
  ]);
  return { format, copies: found, types, tests };
}
