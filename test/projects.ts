/** One vitest project a row, in the order in which infra/test.ts runs them; the quick ones are infra/check.ts as well. */
interface Project {
  /** Beneath test/. */
  include: string[];
  exclude?: string[];
  testTimeoutMs: number;
  /** Servers that the project's files share. */
  services?: string[];
  /** Loaded before each of its files. */
  setup?: string[];
  quick?: boolean;
  /** Only where it is named, `npm test NAME`: takes many minutes of a machine that does nothing else. */
  onDemand?: boolean;
  /** One file after the other: where tests measure time, or share the machine's namespaces. */
  oneByOne?: boolean;
  /** On guests of an emulated processor: a file in which a test failed has a second try (docs/decisions/0087). */
  emulated?: boolean;
  /** Files side by side, where they wait more than they work; else as many as there are processors. */
  workers?: number;
}

const postgres = 'test/services/with-postgres.ts';
const temporal = 'test/services/with-temporal.ts';

/** Sagas whose tests say when something has to be done. */
const timed = ['sagas/leases.test.ts', 'sagas/drain.test.ts', 'sagas/reservation.test.ts'];

export const projects: Record<string, Project> = {
  unit: {
    include: ['unit/**/*.test.ts', 'scheduler/**/*.test.ts', 'clean-machine/{documents,setup}.test.ts'],
    testTimeoutMs: 90_000,
    setup: ['test/seed.ts'],
    quick: true,
  },
  contract: { include: ['contract/**/*.test.ts'], exclude: ['contract/**/*.real.test.ts'], testTimeoutMs: 90_000, quick: true },
  replay: { include: ['replay/**/*.test.ts'], testTimeoutMs: 120_000, services: [postgres, temporal] },
  ledger: { include: ['ledger/**/*.test.ts'], testTimeoutMs: 90_000, services: [postgres] },
  api: { include: ['api/**/*.test.ts'], testTimeoutMs: 90_000, services: [postgres] },
  sagas: {
    include: ['sagas/**/*.test.ts'],
    exclude: timed,
    testTimeoutMs: 240_000,
    services: [postgres, temporal],
    workers: 3,
  },
  timed: { include: timed, testTimeoutMs: 240_000, services: [postgres, temporal], oneByOne: true },
  // From here on on this machine's own hypervisor, as root.
  guest: { include: ['guest/**/*.test.ts'], testTimeoutMs: 240_000, oneByOne: true, emulated: true },
  host: { include: ['contract/**/*.real.test.ts'], testTimeoutMs: 360_000, oneByOne: true, emulated: true },
  site: { include: ['site/**/*.test.ts'], testTimeoutMs: 600_000, oneByOne: true, emulated: true },
  'clean-machine': {
    include: ['clean-machine/clean-machine.test.ts'],
    testTimeoutMs: 25 * 60_000,
    oneByOne: true,
    onDemand: true,
  },
  acceptance: { include: ['acceptance/**/*.test.ts'], testTimeoutMs: 900_000, oneByOne: true, onDemand: true },
};
