/**
 * One vitest project a row, in the order in which infra/test.ts runs them; the quick ones are infra/check.ts as well.
 * docs/testing.md says which guarantee is held in which tier.
 */
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
  /** Run by `npm run test:full`, or by its name, `npm test NAME`; else not. */
  fullOnly?: boolean;
  /** One file after the other: where tests measure time on real guests, which starve each other. */
  oneByOne?: boolean;
  /** The files of a worker process share its modules, and what a fixture of the process keeps: the site of test/site. */
  shared?: boolean;
  /** On guests of an emulated processor: a file in which a test failed has a second try (docs/decisions/0087). */
  emulated?: boolean;
  /** Its longest files, which start first, in this order. */
  longest?: string[];
  /** Files side by side, where they wait more than they work; else as many as there are processors. */
  workers?: number;
}

const postgres = 'test/services/with-postgres.ts';
const temporal = 'test/services/with-temporal.ts';
/** Of projects that run workflows. */
export const bundles = 'test/services/with-bundles.ts';

/** Sagas whose tests say when something has to be done; nothing else runs meanwhile that keeps the processors busy. */
const timed = [
  'sagas/leases.test.ts',
  'sagas/preempted-work.test.ts',
  'sagas/suspended-gangs.test.ts',
  'sagas/drain.test.ts',
  'sagas/reservation.test.ts',
];

/** Of what starts a site on a development machine. Whatever of it the product needs, each file of `site` needs as well. */
const harness = ['site/hosts.test.ts', 'site/restart.test.ts'];

/** On real VMs what `npm test` holds by the sagas and on single real hosts: of these files every test is for a full run. */
const rounds = [
  'site/cancels.test.ts',
  'site/load/*.test.ts',
  'site/money.test.ts',
  'site/reach/*.test.ts',
  'site/templates.test.ts',
  'site/web-server.test.ts',
];

/** Long trials on a single real host, whose parts the suites of the ports and the files of `site` hold. */
const hostTrials = [
  'contract/activities.real.test.ts',
  'contract/disk-full.real.test.ts',
  'contract/domains.real.test.ts',
  'contract/images.real.test.ts',
  'contract/seed.real.test.ts',
];

export const projects: Record<string, Project> = {
  unit: {
    include: ['unit/**/*.test.ts', 'scheduler/**/*.test.ts', 'clean-machine/{documents,setup}.test.ts'],
    testTimeoutMs: 90_000,
    setup: ['test/seed.ts'],
    quick: true,
    shared: true,
    workers: 4,
  },
  contract: {
    include: ['contract/**/*.test.ts'],
    exclude: ['contract/**/*.real.test.ts'],
    testTimeoutMs: 90_000,
    quick: true,
    shared: true,
    workers: 4,
  },
  replay: { include: ['replay/**/*.test.ts'], testTimeoutMs: 120_000, services: [postgres, temporal, bundles] },
  // In simulated time, without a server.
  simulated: { include: ['simulated/**/*.test.ts'], testTimeoutMs: 240_000, services: [bundles], workers: 2 },
  ledger: {
    include: ['ledger/**/*.test.ts'],
    testTimeoutMs: 90_000,
    services: [postgres],
    longest: ['bill-lives', 'retention', 'history', 'migrate', 'events'].map((name) => `ledger/${name}.test.ts`),
  },
  api: { include: ['api/**/*.test.ts'], testTimeoutMs: 90_000, services: [postgres] },
  sagas: {
    include: ['sagas/**/*.test.ts'],
    exclude: timed,
    testTimeoutMs: 240_000,
    services: [postgres, temporal, bundles],
    workers: 3,
    longest: [
      'sagas/migration.test.ts',
      'sagas/lease-matrix.test.ts',
      'sagas/killed-control.test.ts',
      'sagas/vms.test.ts',
      'sagas/fault-matrix.test.ts',
    ],
  },
  // They wait for moments, and do little in between.
  timed: {
    include: timed,
    testTimeoutMs: 240_000,
    services: [postgres, temporal, bundles],
    workers: 4,
    longest: ['sagas/leases.test.ts', 'sagas/preempted-work.test.ts'],
  },
  // From here on on this machine's own hypervisor, as root.
  // A guest of one processor keeps one busy; each file has hosts of its own.
  guest: { include: ['guest/**/*.test.ts'], testTimeoutMs: 240_000, emulated: true, workers: 2 },
  host: {
    include: ['contract/**/*.real.test.ts'],
    exclude: hostTrials,
    testTimeoutMs: 360_000,
    emulated: true,
    workers: 2,
    longest: ['contract/moves.real.test.ts'],
  },
  site: {
    include: ['site/**/*.test.ts'],
    exclude: [...harness, ...rounds],
    testTimeoutMs: 600_000,
    oneByOne: true,
    shared: true,
    emulated: true,
  },
  'host-trials': { include: hostTrials, testTimeoutMs: 360_000, emulated: true, workers: 2, fullOnly: true },
  rounds: { include: rounds, testTimeoutMs: 600_000, oneByOne: true, shared: true, emulated: true, fullOnly: true },
  harness: { include: harness, testTimeoutMs: 600_000, oneByOne: true, emulated: true, fullOnly: true },
  acceptance: { include: ['acceptance/**/*.test.ts'], testTimeoutMs: 900_000, oneByOne: true, fullOnly: true },
  mutations: { include: ['mutations/**/*.test.ts'], testTimeoutMs: 10 * 60_000, oneByOne: true, fullOnly: true },
  'clean-machine': {
    include: ['clean-machine/clean-machine.test.ts'],
    testTimeoutMs: 25 * 60_000,
    oneByOne: true,
    fullOnly: true,
  },
};
