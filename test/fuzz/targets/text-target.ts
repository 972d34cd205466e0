import { changeText } from '../random.ts';
import type { FuzzTarget } from '../target.ts';

/** A parser of text: `run` returns what came of it, and throws only what is wrong. */
export const textTarget = (seeds: string[], run: (text: string) => Promise<string>): FuzzTarget => ({
  corpus: async () => seeds.map((seed) => Buffer.from(seed)),
  change(random, input, corpus) {
    let text = input.toString();
    for (let changes = 1 + random.below(4); changes > 0; changes -= 1)
      text = changeText(random, text, [random.of(corpus).toString()]);
    return Buffer.from(text.slice(0, 200_000));
  },
  run: (input) => run(input.toString()),
});
