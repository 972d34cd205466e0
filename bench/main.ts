import { parseArgs } from 'node:util';
import type { BenchOptions } from './options.ts';

/**
 * `npm run bench -- [--runs N] [--modes MODE,…] [name …]`: JSON lines on standard output, each figure against its
 * baseline in the same run. Without names it runs all benchmarks.
 */

const benchmarks: Record<string, () => Promise<(options: BenchOptions) => Promise<void>>> = {
  task: async () => (await import('./task.ts')).benchTask,
  create: async () => (await import('./create.ts')).benchCreate,
  templates: async () => (await import('./templates.ts')).benchTemplates,
  rate: async () => (await import('./rate.ts')).benchRate,
  migrate: async () => (await import('./migration/migrate.ts')).benchMigrate,
  'migrate-cold': async () => (await import('./migration/migrate-cold.ts')).benchMigrateCold,
  'migrate-cpu': async () => (await import('./migration/migrate-cpu.ts')).benchMigrateCpu,
  edge: async () => (await import('./edge.ts')).benchEdge,
  drain: async () => (await import('./drain.ts')).benchDrain,
  leases: async () => (await import('./leases.ts')).benchLeases,
  crowd: async () => (await import('./crowd/crowd.ts')).benchCrowd,
  scale: async () => (await import('./scale/scale.ts')).benchScale,
  exec: async () => (await import('./exec.ts')).benchExec,
  books: async () => (await import('./money/books.ts')).benchBooks,
  settlements: async () => (await import('./money/settlements.ts')).benchSettlements,
  webhooks: async () => (await import('./money/webhooks.ts')).benchWebhooks,
  reservations: async () => (await import('./reservations.ts')).benchReservations,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: 'string' }, modes: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
});
const unknown = positionals.filter((name) => !Object.hasOwn(benchmarks, name));
if (values.help || unknown.length > 0) {
  if (unknown.length > 0) console.error(`no such benchmark: ${unknown.join(', ')}`);
  console.error(
    `usage: npm run bench -- [--runs N] [--modes MODE,…] [${Object.keys(benchmarks).join('|')} …]\nexample: npm run bench -- task --runs 9`,
  );
  process.exit(values.help ? 0 : 2);
}
const runs = values.runs === undefined ? null : Number(values.runs);
if (runs !== null && !(Number.isInteger(runs) && runs > 0)) {
  console.error(`--runs: found ${values.runs}; expected a whole number above 0`);
  process.exit(2);
}
for (const name of positionals.length > 0 ? positionals : Object.keys(benchmarks)) {
  const bench = await benchmarks[name]!();
  await bench({ runs, modes: values.modes?.split(',') ?? null });
}
