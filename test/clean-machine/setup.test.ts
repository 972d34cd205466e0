import { spawnSync } from 'node:child_process';
import { chmod, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';

/** A program that precedes the rest of PATH. */
async function fake(folder: string, name: string, body: string): Promise<void> {
  await writeFile(join(folder, name), `#!/bin/sh\n${body}\n`);
  await chmod(join(folder, name), 0o755);
}

test('setup refuses a machine that is not x86_64 before it changes anything on it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'berth-setup-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const cache = join(folder, 'cache');
  await fake(folder, 'uname', 'echo aarch64');
  // The first program that setup runs on a machine that it accepts: it must not do more in a test.
  await fake(folder, 'flock', 'exit 99');
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH}`, BERTH_CACHE: cache };
  const { status, stderr } = spawnSync('infra/setup', [], { env, encoding: 'utf8', timeout: 30_000 });
  expect(stderr).toBe('setup: Berth runs on x86_64 only, and this machine is aarch64; see docs/operations.md\n');
  expect(status).toBe(1);
  expect(await readdir(folder)).not.toContain('cache');
});
