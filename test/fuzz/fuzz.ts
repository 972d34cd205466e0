import { Random } from './random.ts';
import { type FuzzTarget, inputDeadlineMs, Wrong } from './target.ts';

/** More inputs than that have no outcome that others do not have. */
const maxCorpus = 2000;

export interface Finding {
  /** What the parser did. */
  why: string;
  input: Buffer;
}

export interface FuzzResult {
  inputs: number;
  outcomes: number;
  slowestMs: number;
  findings: Finding[];
}

/** Runs inputs until the time is over or `maxFindings` are found, each finding for another reason. */
export async function fuzz(
  target: FuzzTarget,
  { seed, ms, maxFindings }: { seed: number; ms: number; maxFindings: number },
): Promise<FuzzResult> {
  const random = new Random(seed);
  const corpus = await target.corpus();
  const outcomes = new Set<string>();
  const findings = new Map<string, Finding>();
  const endMs = performance.now() + ms;
  let [inputs, slowestMs] = [0, 0];
  for (const input of corpus) outcomes.add(await target.run(input));
  while (performance.now() < endMs && findings.size < maxFindings) {
    const input = target.change(random, random.of(corpus), corpus);
    const { outcome, why, tookMs } = await tryInput(target, input);
    inputs += 1;
    slowestMs = Math.max(slowestMs, tookMs);
    if (why !== null) findings.set(why, { why, input });
    else if (!outcomes.has(outcome)) {
      outcomes.add(outcome);
      if (corpus.length < maxCorpus) corpus.push(input);
    }
  }
  return { inputs, outcomes: outcomes.size, slowestMs: Math.round(slowestMs), findings: [...findings.values()] };
}

/** What came of one input; `why`: the parser did wrong. */
export async function tryInput(
  target: FuzzTarget,
  input: Buffer,
): Promise<{ outcome: string; why: string | null; tookMs: number }> {
  const began = performance.now();
  let outcome = '';
  let why: string | null = null;
  try {
    outcome = await target.run(input);
  } catch (error) {
    why = error instanceof Error ? `${error instanceof Wrong ? '' : `${error.name}: `}${error.message}` : String(error);
  }
  const tookMs = performance.now() - began;
  if (why === null && tookMs > inputDeadlineMs) why = `it took more than ${inputDeadlineMs} ms`;
  return { outcome, why: why?.replaceAll(/\d+/g, '#').slice(0, 200) ?? null, tookMs };
}
