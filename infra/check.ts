import { runQuickChecks } from './testing/quick.ts';
import { untilInterrupted } from './testing/step.ts';

const stop = untilInterrupted();
const began = performance.now();
const { format, copies, types, tests } = await runQuickChecks(stop, (result) => {
  const fine = result.exitCode === 0;
  console.log(`${fine ? 'ok    ' : 'FAILED'} ${result.name}, ${result.seconds.toFixed(1)} s`);
  if (!fine) console.log(result.output.trimEnd());
});
for (const failure of [...tests.failures.map(({ line }) => line), ...tests.problems]) console.log(failure);
console.log(
  `${tests.passed} tests passed, ${tests.failures.length} failed, in ${((performance.now() - began) / 1000).toFixed(1)} s`,
);
const failed = [format, copies, types, tests].some((result) => result.exitCode !== 0) || tests.problems.length > 0;
process.exitCode = stop.aborted ? 130 : failed ? 1 : 0;
