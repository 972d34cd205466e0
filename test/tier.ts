/** `full` in the environment of `npm run test:full`: every product of the fault matrices, every case on real VMs. */
export const tierVariable = 'BERTH_TEST_TIER';

/**
 * If not, it is `npm test`, or a single file: what holds each guarantee, of each product a selection by rule
 * (docs/testing.md).
 */
export const isFull = process.env[tierVariable] === 'full';
