import { availableParallelism } from 'node:os';
import { defineConfig, type TestProjectConfiguration } from 'vitest/config';
import LongestFirst from './infra/testing/longest-first.ts';
import { bundles, projects } from './test/projects.ts';

const lightThreads = new URL('test/services/light-workflow-threads.ts', import.meta.url).href;

function configure([name, project]: [string, (typeof projects)[string]]): TestProjectConfiguration {
  return {
    test: {
      name,
      include: project.include.map((pattern) => `test/${pattern}`),
      exclude: (project.exclude ?? []).map((pattern) => `test/${pattern}`),
      environment: 'node',
      pool: 'forks',
      globalSetup: project.services ?? [],
      setupFiles: project.setup ?? [],
      execArgv: project.services?.includes(bundles) ? ['--import', lightThreads] : [],
      testTimeout: project.testTimeoutMs,
      // The condition decides; a second, vitest's own, is what a busy machine takes to start a process.
      expect: { poll: { timeout: 60_000 } },
      hookTimeout: project.testTimeoutMs,
      fileParallelism: !project.oneByOne,
      isolate: !project.shared,
      maxWorkers: project.workers ?? availableParallelism(),
    },
  };
}

export default defineConfig({
  test: {
    teardownTimeout: 30_000,
    sequence: { sequencer: LongestFirst },
    projects: Object.entries(projects).map(configure),
  },
});
