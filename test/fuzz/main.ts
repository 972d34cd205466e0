import { mkdir, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { fuzz } from './fuzz.ts';
import { fuzzTargets } from './targets/index.ts';

/**
 * `npm run fuzz -- NAME [--minutes M] [--seed S]`: changed inputs for one parser of strangers' data, or for all of them. A
 * seed repeats a run as far as its time goes. Prints one JSON line a parser; what is found is kept in test/fuzz/found, from
 * which test/unit/fuzz repeats it; exit code 1 when anything was.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { minutes: { type: 'string', default: '10' }, seed: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
});
const [name, ...more] = positionals;
const [minutes, seed] = [Number(values.minutes), Number(values.seed ?? Date.now() % 1_000_000)];
const known = name === 'all' || (name !== undefined && Object.hasOwn(fuzzTargets, name));
if (values.help || !known || more.length > 0 || !(minutes > 0) || !Number.isSafeInteger(seed)) {
  console.error(
    `usage: npm run fuzz -- all|${Object.keys(fuzzTargets).join('|')} [--minutes M] [--seed S]\nexample: npm run fuzz -- ext4 --minutes 10 --seed 7`,
  );
  process.exit(values.help ? 0 : 2);
}

const found = new URL('found/', import.meta.url);
let count = 0;
for (const target of name === 'all' ? Object.keys(fuzzTargets) : [name!]) {
  const parser = fuzzTargets[target]!();
  const { findings, ...figures } = await fuzz(parser, { seed, ms: minutes * 60_000, maxFindings: 20 });
  await parser.close?.();
  for (const [index, { input }] of findings.entries()) {
    await mkdir(found, { recursive: true });
    await writeFile(new URL(`${target}-${seed}-${index}.gz`, found), gzipSync(input));
  }
  count += findings.length;
  console.log(JSON.stringify({ target, seed, minutes, ...figures, findings: findings.map(({ why }) => why) }));
}
process.exit(count === 0 ? 0 : 1);
