import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { copyOverNfs } from '../../../../drivers/transfer/nfs-copy.ts';

let folder: string;
const path = process.env.PATH;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-nfs-copy-'));
  process.env.PATH = `${folder}${delimiter}${path}`;
});
afterEach(async () => {
  process.env.PATH = path;
  await rm(folder, { recursive: true });
});

/** The stand-in for nfs-cp: $1 is the URL, $2 the destination; it runs in the folder in which `calls` grows. */
async function nfsCp(script: string): Promise<void> {
  const program = join(folder, 'nfs-cp');
  await writeFile(program, `#!/bin/sh\nset -e\necho "$1" >>${folder}/calls\n${script}\n`);
  await chmod(program, 0o755);
}

/** @param stallMs longer than the start of a process takes on a busy machine, where that must not count as a stall */
const copy = (stallMs = 3000) =>
  copyOverNfs(
    { address: '10.0.0.1', path: '/a/b', destination: join(folder, 'to'), sizeBytes: 100 },
    { pollMs: 20, stallMs, attempts: 3 },
  );
const calls = async () => (await readFile(join(folder, 'calls'), 'utf8')).trim().split('\n');

test('a copy that hangs is ended and restarted', async () => {
  await nfsCp(`[ ! -e "$2" ]; if [ $(wc -l <${folder}/calls) = 1 ]; then echo half >"$2"; exec sleep 60; fi; echo whole >"$2"`);
  await copy();
  expect(await readFile(join(folder, 'to'), 'utf8')).toBe('whole\n');
  expect(await calls()).toEqual(['nfs://10.0.0.1/a/b', 'nfs://10.0.0.1/a/b']);
});

test('a slow copy that makes progress is not interrupted', async () => {
  await nfsCp(`for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo $n >>"$2"; sleep 0.1; done`);
  await copy();
  expect(await calls()).toHaveLength(1);
});

test('a copy that always hangs, or is refused, fails with the reason', async () => {
  await nfsCp('exec sleep 60');
  await expect(copy(1000)).rejects.toThrow(/brought nothing for 1 s, 3 times/);
  await nfsCp('echo "no such file" >&2; exit 10');
  await expect(copy()).rejects.toThrow(/exit 10: no such file/);
});
