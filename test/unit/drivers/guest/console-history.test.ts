import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openConsoleHistory } from '../../../../drivers/guest/streams/console-history.ts';
import { ConsoleLog } from '../../../../drivers/guest/streams/console-log.ts';
import { newId, type VmId } from '../../../../model/ids.ts';
import { openLog } from '../../../../model/log.ts';

type History = Awaited<ReturnType<typeof openConsoleHistory>>;

let folder: string;
let vm: VmId;
/** Hosts that answer nothing. */
let away: Set<string>;
const workers = new Map<string, History>();

const rootOf = (host: string): string => join(folder, host);
const consoleOf = (host: string): string => join(rootOf(host), 'vms', vm, 'console.log');
const at = (host: string): History => workers.get(host)!;

/** Starts a host's worker, as after a kill where it ran. */
async function start(host: string): Promise<void> {
  workers.get(host)?.close();
  mkdirSync(join(rootOf(host), 'staging'), { recursive: true });
  const history = await openConsoleHistory({
    root: rootOf(host),
    host,
    pathOf: (vmId) => join(rootOf(host), 'vms', vmId, 'console.log'),
    listIds: async () => (existsSync(join(rootOf(host), 'vms')) ? (readdirSync(join(rootOf(host), 'vms')) as VmId[]) : []),
    copy: async ({ address, path }, destination) => {
      if (away.has(address)) throw new Error(`no answer of ${address}`);
      // On every host the path is the same.
      copyFileSync(path.replace(rootOf(host), rootOf(address)), destination);
    },
    log: openLog('test', 'fatal'),
  });
  workers.set(host, history);
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'berth-history-'));
  vm = newId('vm');
  away = new Set();
  for (const host of ['a', 'b', 'c']) await start(host);
});
afterEach(() => {
  for (const history of workers.values()) history.close();
  rmSync(folder, { recursive: true });
});

async function textAt(host: string): Promise<string | null> {
  return (await new ConsoleLog(consoleOf(host), host).readPage({ last: 2 ** 17 }))?.bytes.toString() ?? null;
}

const write = (host: string, text: string): void => {
  mkdirSync(join(rootOf(host), 'vms', vm), { recursive: true });
  writeFileSync(consoleOf(host), text, { flag: 'a' });
};

/** The VM comes from one host to another and writes there; the first one is cleaned up. */
async function moveTo(host: string, from: string, generation: number, text: string): Promise<void> {
  mkdirSync(join(rootOf(host), 'vms', vm), { recursive: true });
  await at(host).expect(vm, { address: from, generation });
  write(host, text);
  await at(from).leave(vm, generation);
  rmSync(join(rootOf(from), 'vms', vm), { recursive: true });
}

describe('the history of a console', () => {
  test('comes after a VM over all its hosts, and back', async () => {
    write('a', 'first ');
    await moveTo('b', 'a', 2, 'second ');
    await moveTo('c', 'b', 3, 'third ');
    await moveTo('a', 'c', 4, 'fourth');
    await at('a').arrived(vm);
    expect(await textAt('a')).toBe('first second third fourth');
    // What was kept for the placement before is not kept beside it.
    expect(['a', 'b', 'c'].map((host) => readdirSync(join(rootOf(host), 'consoles')))).toEqual([
      [`${vm}.2`],
      [`${vm}.3`],
      [`${vm}.4`],
    ]);
  });

  test('comes by itself, also where the worker of the new host was killed, and the old one was away for a while', async () => {
    write('a', 'first ');
    away.add('a');
    await moveTo('b', 'a', 2, 'second');
    await start('b');
    await at('b').arrived(vm);
    expect(await textAt('b')).toBe('second');
    away.clear();
    await expect.poll(() => textAt('b'), { timeout: 20_000 }).toBe('first second');
    expect(readdirSync(join(rootOf('b'), 'vms', vm)).sort()).toEqual(['console.log', 'console.log.earlier']);
  });

  test('is waited for by clients that come together once, and by none for a while when it does not come', async () => {
    write('a', 'first ');
    away.add('a');
    await moveTo('b', 'a', 2, 'second');
    const took = async (): Promise<number> => {
      const sinceMs = performance.now();
      await Promise.all([at('b').arrived(vm), at('b').arrived(vm)]);
      return performance.now() - sinceMs;
    };
    const first = await took();
    expect([first > 1500, first < 4000]).toEqual([true, true]);
    expect(await took()).toBeLessThan(50);
  });

  test('is kept again when its host is killed before the rest is removed', async () => {
    write('a', 'first ');
    mkdirSync(join(rootOf('b'), 'vms', vm), { recursive: true });
    await at('b').expect(vm, { address: 'a', generation: 2 });
    await at('a').leave(vm, 2);
    await start('a');
    await at('a').leave(vm, 2);
    await at('b').arrived(vm);
    expect(await textAt('b')).toBe('first ');
  });

  test('of a move that was undone is expected no more, and what an earlier placement kept is not taken', async () => {
    write('a', 'first ');
    await at('a').leave(vm, 2);
    mkdirSync(join(rootOf('b'), 'vms', vm), { recursive: true });
    await at('b').expect(vm, { address: 'a', generation: 3 });
    await at('b').arrived(vm);
    expect(await textAt('b')).toBeNull();
    await at('b').leave(vm, null);
    await start('b');
    expect(readdirSync(join(rootOf('b'), 'vms', vm))).toEqual([]);
  });

  test('is what its host says, unless that is damaged: then the console is without', async () => {
    write('a', 'first ');
    away.add('a');
    await moveTo('b', 'a', 2, 'second');
    writeFileSync(join(rootOf('a'), 'consoles', `${vm}.2`), 'x'.repeat(2 ** 20));
    away.clear();
    await at('b').arrived(vm);
    expect(await textAt('b')).toBe('second');
    expect(existsSync(`${consoleOf('b')}.expected`)).toBe(false);
  });

  test('is kept for a day', async () => {
    write('a', 'first ');
    away.add('a');
    await moveTo('b', 'a', 2, 'second');
    const dayAgo = new Date(Date.now() - 25 * 3600 * 1000);
    const kept = join(rootOf('a'), 'consoles', `${vm}.2`);
    for (const path of [kept, `${consoleOf('b')}.expected`]) utimesSync(path, dayAgo, dayAgo);
    for (const host of ['a', 'b']) await start(host);
    await expect
      .poll(() => [kept, `${consoleOf('b')}.expected`].filter((path) => existsSync(path)), { timeout: 10_000 })
      .toEqual([]);
    expect(statSync(consoleOf('b')).size).toBe(6);
  });

  test('that this host’s disk has no room for is lost, and nothing else', async () => {
    write('a', 'first ');
    writeFileSync(join(rootOf('a'), 'consoles'), 'no folder');
    await at('a').leave(vm, 2);
    expect(await textAt('a')).toBe('first ');
  });
});
