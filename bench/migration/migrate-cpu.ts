import { move, moveOver } from '../../test/site/moves.ts';
import { openSite, type TestSite } from '../../test/site/the-site.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import type { BenchOptions } from '../options.ts';
import { quiesce } from '../quiesce.ts';

/** Arithmetic that prints its duration in ms. */
const arithmetic = (rounds: number): string =>
  `s=$(date +%s%N); perl -e 'my $x = 0; for (my $i = 0; $i < ${rounds}; $i++) { $x += $i % 7 } print "$x\\n"'; e=$(date +%s%N); echo $(( (e - s) / 1000000 ))`;

/**
 * The target duration of an undisturbed task, and the calibration runs that measure this machine's rate: two, since a
 * short run predicts the rate of a long one poorly.
 */
const targetMs = 60_000;
const calibrationRounds = 4_000_000;
const tries = 2;

/**
 * Under emulation a guest sometimes dies after a migration, with either side (docs/migration.md): the death is reported
 * and counted.
 */
class GuestDied extends Error {}
const maxDeaths = 1;

/**
 * `migrate.cpuTask`: a task that only computes, for about a minute, migrated at half of its time, against the same task
 * undisturbed. Times are by the guest's own clock, which may stop during the downtime: so the measured downtime is
 * reported and not subtracted.
 */
export async function benchMigrateCpu({ runs }: BenchOptions): Promise<void> {
  const count = Math.max(runs ?? 3, 1);
  const test = await openSite(2);
  try {
    const warm = await test.client.submit({ image: 'debian-12', command: ['true'], nodes: 2 });
    await test.client.over(warm.id);
    let rounds = calibrationRounds;
    for (let attempt = 0; attempt < tries; attempt += 1)
      rounds = Math.round((rounds * targetMs) / (await runTask(test, rounds, null)).ms);
    const alone: number[] = [];
    const moved: number[] = [];
    const downtimes: number[] = [];
    let died = 0;
    while (moved.length < count) {
      alone.push((await runTask(test, rounds, null)).ms);
      try {
        const { ms, downtimeMs } = await runTask(test, rounds, median(alone) / 2);
        moved.push(ms);
        downtimes.push(downtimeMs);
        logProgress(`run ${moved.length}: alone ${alone.at(-1)} ms, moved ${ms} ms with a standstill of ${downtimeMs} ms`);
      } catch (error) {
        if (!(error instanceof GuestDied) || died === maxDeaths) throw error;
        died += 1;
        logProgress(`alone ${alone.at(-1)} ms, and none moved: ${error.message}`);
      }
    }
    const detail = { runs: count, died, downtimeMs: median(downtimes) };
    printFigure('migrate.cpuTask', median(moved) / 1000, 's', median(alone) / 1000, detail);
  } finally {
    await test.stop();
  }
}

async function runTask(test: TestSite, rounds: number, moveAfterMs: number | null): Promise<{ ms: number; downtimeMs: number }> {
  await quiesce(test, 0);
  const { id } = await test.client.submit({
    image: 'debian-12',
    command: ['sh', '-c', arithmetic(rounds)],
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
  if (moveAfterMs !== null && over.error?.code === 'vm-lost') throw new GuestDied(over.error.message);
  if (over.state !== 'succeeded') throw new Error(`${id} is ${over.state}: ${JSON.stringify(over.error)}`);
  const log = (await test.client.callWithRetry<string>('GET', `/v1/tasks/${id}/log`)).body.trim().split('\n');
  return { ms: Number(log.at(-1)), downtimeMs };
}
