import { defineConfig, type TestProjectConfiguration } from 'vitest/config';

interface Project {
  /** Files beneath test/ */
  include: string[];
  exclude?: string[];
  testTimeoutMs: number;
  /** Servers that the project's files share. */
  services?: string[];
  /** One file after the other: where tests measure time, or share the machine's namespaces. */
  oneByOne?: boolean;
}

const postgres = 'test/services/with-postgres.ts';
const temporal = 'test/services/with-temporal.ts';

/** infra/test.ts runs them in this order, infra/check.ts the first few. */
const projects: Record<string, Project> = {
  unit: { include: ['unit/**/*.test.ts', 'scheduler/**/*.test.ts'], testTimeoutMs: 20_000 },
  contract: { include: ['contract/**/*.test.ts'], exclude: ['contract/**/*.real.test.ts'], testTimeoutMs: 20_000 },
  replay: { include: ['replay/**/*.test.ts'], testTimeoutMs: 60_000, services: [postgres, temporal] },
  ledger: { include: ['ledger/**/*.test.ts'], testTimeoutMs: 30_000, services: [postgres] },
  api: { include: ['api/**/*.test.ts'], testTimeoutMs: 30_000, services: [postgres] },
  sagas: { include: ['sagas/**/*.test.ts'], testTimeoutMs: 120_000, services: [postgres, temporal] },
  // From here on on this machine's own hypervisor, as root.
  guest: { include: ['guest/**/*.test.ts'], testTimeoutMs: 120_000, oneByOne: true },
  host: { include: ['contract/**/*.real.test.ts'], testTimeoutMs: 180_000, oneByOne: true },
  site: { include: ['site/**/*.test.ts'], testTimeoutMs: 300_000, oneByOne: true },
};

function configure([name, project]: [string, Project]): TestProjectConfiguration {
  return {
    test: {
      name,
      include: project.include.map((pattern) => `test/${pattern}`),
      exclude: (project.exclude ?? []).map((pattern) => `test/${pattern}`),
      environment: 'node',
      pool: 'forks',
      globalSetup: project.services ?? [],
      testTimeout: project.testTimeoutMs,
      hookTimeout: project.testTimeoutMs,
      fileParallelism: !project.oneByOne,
    },
  };
}

export default defineConfig({ test: { teardownTimeout: 30_000, projects: Object.entries(projects).map(configure) } });
