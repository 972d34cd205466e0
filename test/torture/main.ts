import { parseArgs } from 'node:util';
import type { TortureOptions } from './options.ts';

/**
 * `npm run torture -- NAME [--runs N] [--seed S] [--lanes L]`: long runs of faults at random moments on a real site, too
 * long for a test run. A seed repeats the choices of a run: the faults and their moments. Prints one JSON line for each
 * run, and a last one that sums up; exit code 1 when any was wrong.
 */

const tortures: Record<string, () => Promise<(options: TortureOptions) => Promise<boolean>>> = {
  drain: async () => (await import('./drain.ts')).tortureDrains,
  emulation: async () => (await import('./emulation.ts')).tortureEmulation,
  soak: async () => (await import('./soak.ts')).soakFakes,
  'soak-site': async () => (await import('./soak-site.ts')).soakSite,
  migrate: async () => (await import('./migrate.ts')).tortureMigrations,
};

function whole(name: string, text: string | undefined, otherwise: number): number {
  const value = text === undefined ? otherwise : Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  console.error(`--${name}: found ${text}; expected a whole number`);
  process.exit(2);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string' },
    seed: { type: 'string' },
    case: { type: 'string', multiple: true },
    lanes: { type: 'string' },
    help: { type: 'boolean', short: 'h' },
  },
});
const [name, ...more] = positionals;
if (values.help || name === undefined || more.length > 0 || !Object.hasOwn(tortures, name)) {
  console.error(
    `usage: npm run torture -- ${Object.keys(tortures).join('|')} [--runs N] [--seed S] [--case NAME …] [--lanes L]\nexample: npm run torture -- migrate --runs 20 --seed 7`,
  );
  process.exit(values.help ? 0 : 2);
}
const torture = await tortures[name]!();
const runs = whole('runs', values.runs, 20);
const seed = whole('seed', values.seed, Date.now() % 100_000);
const lanes = Math.max(1, whole('lanes', values.lanes, 1));
process.exit((await torture({ runs, seed, cases: values.case ?? null, lanes })) ? 0 : 1);
