import { appendFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestModule } from 'vitest/node';

/** The environment variable with the path of the file for the times, one JSON object a line. */
export const fileTimesVariable = 'BERTH_FILE_TIMES';

/** A test file and its duration. */
export interface FileTime {
  /** Path relative to the repository's root. */
  file: string;
  /** Includes tests and hooks; vitest's JSON report omits the hooks, in which several files do most of their work. */
  seconds: number;
}

/** A vitest reporter that records the duration of each test file. */
export default class FileTimes implements Reporter {
  readonly #startedMs = new Map<string, number>();

  onTestModuleStart({ id }: TestModule): void {
    this.#startedMs.set(id, performance.now());
  }

  onTestModuleEnd({ id, moduleId }: TestModule): void {
    const startedMs = this.#startedMs.get(id);
    const path = process.env[fileTimesVariable];
    // A file that could not be loaded has not started.
    if (startedMs === undefined || path === undefined) return;
    const time: FileTime = { file: relative('', moduleId), seconds: (performance.now() - startedMs) / 1000 };
    appendFileSync(path, `${JSON.stringify(time)}\n`);
  }
}
