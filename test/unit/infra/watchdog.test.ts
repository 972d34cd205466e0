import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Child, supervise } from '../../../infra/site/supervise.ts';

const limitMs = 2000;
let folder: string;
let child: Child | null;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-watchdog-'));
  child = null;
});
afterEach(async () => {
  await child?.stop();
  await rm(folder, { recursive: true });
});

test('a process whose event loop stops is killed and started again, and one that only works is not', async () => {
  const feed = join(import.meta.dirname, '../../../workers/feed-watchdog.ts');
  const log = join(import.meta.dirname, '../../../model/log.ts');
  // Its first life ends in a loop without end, as a match that is exponential would.
  const program = `
    import { existsSync, writeFileSync } from 'node:fs';
    import { feedWatchdog } from ${JSON.stringify(feed)};
    import { openLog } from ${JSON.stringify(log)};
    feedWatchdog(openLog('test', 'error'));
    const first = !existsSync(${JSON.stringify(join(folder, 'begun'))});
    writeFileSync(${JSON.stringify(join(folder, 'begun'))}, '');
    setInterval(() => undefined, 1000);
    if (!first) writeFileSync(${JSON.stringify(join(folder, 'previous'))}, String(process.env.BERTH_PREVIOUS_END));
    if (first) setTimeout(() => { for (;;); }, 500);
  `;
  await writeFile(join(folder, 'main.ts'), program);
  const notes: string[] = [];
  child = supervise(
    {
      name: 'loops',
      argv: [process.execPath, join(folder, 'main.ts')],
      env: { PATH: process.env.PATH ?? '' },
      logFile: join(folder, 'log'),
      isReady: () => true,
      watchdog: { socket: join(folder, 'notify'), limitMs },
    },
    (text) => notes.push(text),
  );
  await child.untilReadyAgain(0, 20_000);
  expect(notes[0]).toBe('loops has not fed its watchdog for 2 s; it is killed');
  await delay(2 * limitMs);
  expect(child.restarts()).toBe(1);
  // A host worker counts what its predecessor did.
  expect(await readFile(join(folder, 'previous'), 'utf8')).toBe('watchdog');
  child.kill('SIGABRT');
  await child.untilReadyAgain(1, 20_000);
  await expect.poll(() => readFile(join(folder, 'previous'), 'utf8'), { timeout: 20_000 }).toBe('SIGABRT');
});
