import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { fuzz, tryInput } from '../../fuzz/fuzz.ts';
import { fuzzTargets } from '../../fuzz/targets/index.ts';
import { isFull } from '../../tier.ts';

const names = Object.keys(fuzzTargets);

/** `npm run fuzz` does this for as long as it is told; here its targets and parsers are shown to fit together. */
it.each(names)('the parser of %s takes changed inputs, for a second or, in a full run, a minute', async (name) => {
  const target = fuzzTargets[name]!();
  try {
    const { inputs, outcomes, findings } = await fuzz(target, { seed: 1, ms: isFull ? 60_000 : 700, maxFindings: 1 });
    expect(findings.map(({ why, input }) => ({ why, input: input.subarray(0, 200).toString() }))).toEqual([]);
    expect(inputs).toBeGreaterThan(10);
    expect(outcomes).toBeGreaterThan(1);
  } finally {
    await target.close?.();
  }
});

/** Inputs that a parser did wrong once: `<target>-<seed>-<n>.gz`, as `npm run fuzz` writes them. */
const folder = new URL('../../fuzz/found/', import.meta.url);

it.each(readdirSync(folder))('the input %s, which was found, is right now', async (file) => {
  const name = names.find((target) => file.startsWith(`${target}-`))!;
  const target = fuzzTargets[name]!();
  try {
    await target.corpus();
    const { why } = await tryInput(target, gunzipSync(readFileSync(new URL(file, folder))));
    expect(why).toBeNull();
  } finally {
    await target.close?.();
  }
});
