import fc from 'fast-check';

/**
 * The same cases in every run, so that a check that fails does so again; BERTH_PROPERTY_SEED (a number, or `random`)
 * selects others, and BERTH_PROPERTY_RUNS more. A failure prints its seed.
 */
const requested = process.env.BERTH_PROPERTY_SEED ?? '20261125';
if (requested !== 'random') fc.configureGlobal({ seed: Number(requested) });
