import { run } from '../host/run-process.ts';

const deadlineMs = 15_000;

/** What makes `chain` begin with a jump to ours, whatever another program has put before it; [] where it does. */
export async function jumpTo(table: string, chain: string, target: string): Promise<string[]> {
  const listed = await run(['iptables', '-w', '10', '-t', table, '-S', chain], { deadlineMs });
  const rules = listed.split('\n').filter((line) => line.startsWith('-A '));
  const jump = `${chain} -j ${target}`;
  const ours = rules.filter((rule) => rule === `-A ${jump}`);
  if (ours.length === 1 && rules[0] === ours[0]) return [];
  return [...ours.map(() => `-D ${jump}`), `-I ${chain} 1 -j ${target}`];
}

/** The kernel takes a third of a millisecond for a rule, beside other work: with a fixed time, ten thousand ports would never be there. */
const ruleDeadlineMs = 2;

/** Replaces chains, one transaction a table; `--noflush` leaves other chains alone. */
export async function restoreChains(rules: string): Promise<void> {
  const lines = rules.split('\n').length;
  await run(['iptables-restore', '-w', '10', '--noflush'], { deadlineMs: deadlineMs + lines * ruleDeadlineMs, input: rules });
}

/** The names of a table's chains that programs have made. */
export async function chainsOf(table: string): Promise<string[]> {
  const listed = await run(['iptables', '-w', '10', '-t', table, '-S'], { deadlineMs, limitBytes: 64 * 2 ** 20 });
  return [...listed.matchAll(/^-N (\S+)$/gm)].map((match) => match[1] ?? '');
}
