import { move, moveOver } from '../test/site/moves.ts';
import { openSite, type TestSite } from '../test/site/the-site.ts';
import { median, printLine, say } from './line.ts';
import type { BenchOptions } from './main.ts';

/** About a minute of arithmetic under emulation on the machine where this was written; says how long it took, in ms. */
const command = `s=$(date +%s%N); perl -e 'my $x = 0; for (my $i = 0; $i < 25_000_000; $i++) { $x += $i % 7 } print "$x\\n"'; e=$(date +%s%N); echo $(( (e - s) / 1000000 ))`;

/**
 * `migrate.cpuTask`: a task that only computes, moved at half of its time, against the same task left alone. The
 * standstill that was measured is taken off, and told.
 */
export async function benchMigrateCpu({ runs }: BenchOptions): Promise<void> {
  const count = Math.max(runs ?? 3, 1);
  const test = await openSite(2);
  try {
    const warm = await test.client.submit({ image: 'debian-12', command: ['true'], nodes: 2 });
    await test.client.over(warm.id);
    const alone: number[] = [];
    const moved: number[] = [];
    const downtimes: number[] = [];
    for (let round = 0; round < count; round += 1) {
      alone.push((await compute(test, null)).ms);
      const { ms, downtimeMs } = await compute(test, median(alone) / 2);
      moved.push(ms - downtimeMs);
      downtimes.push(downtimeMs);
      say(`run ${round + 1}: alone ${alone.at(-1)} ms, moved ${ms} ms with a standstill of ${downtimeMs} ms`);
    }
    printLine('migrate.cpuTask', median(moved) / 1000, 's', median(alone) / 1000, { runs: count, downtimeMs: median(downtimes) });
  } finally {
    await test.stop();
  }
}

async function compute(test: TestSite, moveAfterMs: number | null): Promise<{ ms: number; downtimeMs: number }> {
  const { id } = await test.client.submit({
    image: 'debian-12',
    command: ['sh', '-c', command],
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 },
    timeoutS: 900,
  });
  const { vms } = await test.client.until(id, ['running']);
  let downtimeMs = 0;
  if (moveAfterMs !== null) {
    await new Promise((resolve) => setTimeout(resolve, moveAfterMs));
    const over = await moveOver(test, (await move(test, vms[0]!)).id);
    if (over.state !== 'succeeded' || over.downtimeMs === null) throw new Error(`it did not move: ${JSON.stringify(over)}`);
    downtimeMs = over.downtimeMs;
  }
  const over = await test.client.over(id, 900);
  if (over.state !== 'succeeded') throw new Error(`${id} is ${over.state}: ${JSON.stringify(over.error)}`);
  const log = (await test.client.insist<string>('GET', `/v1/tasks/${id}/log`)).body.trim().split('\n');
  return { ms: Number(log.at(-1)), downtimeMs };
}
