import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { move, moveOver } from '../moves.ts';
import { onSharedSite } from '../shared-site.ts';
import type { TestSite } from '../the-site.ts';
import { berth, berthArgv, removeVm, startVm } from './berth.ts';
import { openTerminal, type Terminal } from './terminal.ts';

let here: TestSite;
let folder: string;
onSharedSite((site) => {
  here = site;
});
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-tmux-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const moves = 3;

/** The time in top's first line: it is drawn anew each second. */
const clockOf = ([first = '']: string[]): string | null => /^top - (\d\d:\d\d:\d\d) up /.exec(first)?.[1] ?? null;

async function isRedrawn(top: Terminal): Promise<void> {
  const before = clockOf(await top.screen());
  const next = async () => clockOf(await top.screen());
  await expect.poll(next, { timeout: 30_000 }).not.toBe(before);
  await expect.poll(next, { timeout: 30_000 }).not.toBeNull();
}

test('top is redrawn, and a count is whole, in terminals under which the VM is live-migrated three times', async () => {
  const vm = await startVm(here, 'terminals');
  // A line, and a sleep, so that some are on their way at any moment.
  const counter =
    'stty -echo; echo ready; read -r x; i=0; while [ ! -e /tmp/stop ]; do echo line-$i; i=$((i+1)); sleep 0.05; done; echo over-$i';
  const top = await openTerminal(here, join(folder, 'top'), berthArgv('exec', '-it', vm, '--', 'top', '-d', '1'));
  const counts = await openTerminal(here, join(folder, 'counts'), berthArgv('exec', '-it', vm, '--', 'sh', '-c', counter));
  try {
    const shown = async (): Promise<string> => (await counts.screen()).join('\n');
    await expect.poll(shown, { timeout: 60_000 }).toContain('ready');
    const transcript = join(folder, 'transcript');
    await counts.transcribe(transcript);
    await counts.type('go', 'Enter');
    const counted = async (): Promise<number> => (await readFile(transcript, 'latin1')).match(/line-\d+/g)?.length ?? 0;
    await expect.poll(async () => clockOf(await top.screen()), { timeout: 60_000 }).not.toBeNull();
    const during: string[] = [];
    for (let times = 1; times <= moves; times += 1) {
      await isRedrawn(top);
      const before = await counted();
      const migration = await moveOver(here, (await move(here, vm)).id);
      expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', mode: 'live' });
      during.push(`${before} to ${await counted()}`);
      await isRedrawn(top);
      // What is typed arrives, and so does the size: top has a line for each row of it.
      const rows = 24 + 2 * times;
      await top.resize(80 + 10 * times, rows);
      await expect
        .poll(async () => (await top.screen()).slice(0, rows).filter((line) => line.trim() !== '').length, { timeout: 30_000 })
        .toBeGreaterThan(rows - 3);
      await expect.poll(counted, { timeout: 30_000 }).toBeGreaterThan(before);
    }
    expect(await berth(here, ['exec', vm, '--', 'touch', '/tmp/stop'])).toMatchObject({ code: 0, error: '' });
    await expect.poll(() => counts.exitCode(), { timeout: 30_000 }).toBe(0);
    await top.type('q');
    await expect.poll(() => top.exitCode(), { timeout: 30_000 }).toBe(0);
    const text = await readFile(transcript, 'latin1');
    const lines = text.match(/line-\d+/g)!;
    expect(lines).toEqual(lines.map((_, line) => `line-${line}`));
    expect(text).toContain(`over-${lines.length}`);
    console.log(
      `top was redrawn after each of ${moves} moves; ${lines.length} lines once each, in the moves ${during.join(', ')}`,
    );
  } finally {
    await Promise.all([top.end(), counts.end()]);
  }
  await removeVm(here, vm);
});
