import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exists } from '../../drivers/host/files.ts';
import { run } from '../../drivers/host/run-process.ts';
import { until } from '../../infra/site/until.ts';
import { counting, countsPast, type MigrationAnswer, move, moveOver, numbersOf } from '../../test/site/moves.ts';
import { openSite, type TestSite } from '../../test/site/the-site.ts';
import { logProgress, median, printFigure } from '../figures.ts';
import type { BenchOptions } from '../options.ts';

/**
 * `migrate.cold.bytes`, `migrate.cold.seconds`: a VM that migrates cold to a host that stores an older version of it,
 * against its first migration, which copies everything, and against `rsync -z` of the same files onto the same older
 * ones.
 */
export async function benchMigrateCold({ runs }: BenchOptions): Promise<void> {
  const count = Math.max(runs ?? 3, 1);
  const test = await openSite(2);
  try {
    const full: ColdCopy[] = [];
    const delta: ColdCopy[] = [];
    const rsync: ColdCopy[] = [];
    for (let round = 0; round < count; round += 1) {
      const task = await counting(test, 1_000_000, 256);
      const vm = task.vms[0]!;
      const there = await migrateCold(test, vm);
      await countsPast(test, task.id, (await numbersOf(test, task.id)).length + 10);
      const back = await migrateCold(test, vm);
      full.push(copyOf(there));
      delta.push(copyOf(back));
      rsync.push(await rsyncOf(test, vm, there, back));
      const last = (found: ColdCopy[]) =>
        `${(found.at(-1)!.bytes / 2 ** 20).toFixed(1)} MiB in ${found.at(-1)!.seconds.toFixed(2)} s`;
      logProgress(`run ${round + 1}: whole ${last(full)}, what changed ${last(delta)}, rsync ${last(rsync)}`);
      await test.client.callWithRetry('DELETE', `/v1/tasks/${task.id}`);
      await test.client.over(task.id);
    }
    for (const what of ['bytes', 'seconds'] as const) {
      const of = (found: ColdCopy[]) => median(found.map((one) => one[what]));
      printFigure(`migrate.cold.${what}`, of(delta), what === 'bytes' ? 'bytes' : 's', of(rsync), {
        runs: count,
        baselineIs: 'rsync -z of the same files',
        whole: of(full),
      });
    }
  } finally {
    await test.stop();
  }
}

interface ColdCopy {
  bytes: number;
  seconds: number;
}

async function migrateCold(test: TestSite, vm: string): Promise<MigrationAnswer> {
  const over = await moveOver(test, (await move(test, vm, { mode: 'cold', moveDisk: true })).id);
  if (over.state !== 'succeeded') throw new Error(`the migration is ${over.state}: ${JSON.stringify(over.error)}`);
  return over;
}

function copyOf({ bytes, phases }: MigrationAnswer): ColdCopy {
  return { bytes, seconds: phases.find(({ name }) => name === 'copy')?.seconds ?? 0 };
}

/**
 * Both hosts store the version that left them: the destination of the return has the older version, its source the newer
 * one.
 */
async function rsyncOf(test: TestSite, vm: string, there: MigrationAnswer, back: MigrationAnswer): Promise<ColdCopy> {
  const kept = (host: string): string => join(test.home, 'hosts', host, 'versions', vm);
  // The source stores the version only after the migration has ended.
  await until(`${back.from} keeps what left it`, 30_000, () => exists(join(kept(back.from), 'index')));
  const onto = await mkdtemp(join(tmpdir(), 'berth-rsync-'));
  try {
    await run(['cp', '-a', `${kept(there.from)}/.`, onto], { deadlineMs: 60_000 });
    const began = performance.now();
    const argv = [
      'rsync',
      '-a',
      '-z',
      '--no-whole-file',
      '--checksum',
      '--inplace',
      '--stats',
      '--exclude=index',
      `${kept(back.from)}/`,
      `${onto}/`,
    ] as const;
    const stats = await run([...argv], { deadlineMs: 120_000 });
    const seconds = (performance.now() - began) / 1000;
    const number = (name: string): number => Number(new RegExp(`${name}: ([\\d,]+)`).exec(stats)?.[1]?.replaceAll(',', ''));
    return { bytes: number('Total bytes sent') + number('Total bytes received'), seconds };
  } finally {
    await rm(onto, { recursive: true });
  }
}
