import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { newHostKey } from '../../../../drivers/guest/host-key.ts';
import { run } from '../../../../drivers/host/run-process.ts';

it('makes host keys that OpenSSH accepts, a new one each time', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'berth-key-'));
  try {
    const seen = new Set<string>();
    for (let n = 0; n < 10; n += 1) {
      const key = newHostKey(`root@node${n}`);
      await writeFile(join(folder, `key${n}`), key.private, { mode: 0o600 });
      expect(await run(['ssh-keygen', '-y', '-f', join(folder, `key${n}`)], { deadlineMs: 10_000 })).toBe(key.public);
      seen.add(key.public.split(' ')[1]!);
    }
    expect(seen.size).toBe(10);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
