import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { asciiJson } from '../../../../drivers/guest/guest-agent.ts';
import { openVirsh, quoteForVirsh, VirshUnresponsive } from '../../../../drivers/libvirt/virsh.ts';

/** libvirt's own test hypervisor needs no daemon: virsh is real here, and the machines are not. */
const virsh = openVirsh('test:///default', 2);
afterAll(() => virsh.close());
const call = (...command: [string, ...string[]]) => virsh.call(command, 10_000);

describe('the persistent virsh', () => {
  it('answers, with an output or an error', async () => {
    expect(await call('domstate', 'test')).toEqual({ ok: true, output: 'running\n' });
    const unknown = await call('domstate', 'no such');
    expect(unknown).toMatchObject({ ok: false, error: expect.stringContaining("failed to get domain 'no such'") });
    expect(await call('list', '--all', '--name')).toMatchObject({ ok: true, output: 'test\n' });
  });

  it('takes every word literally', async () => {
    for (const word of [`it's`, `"`, '\\', `'\\''`, '; echo hi', '# not a comment', '$HOME `id`', '--err', ' ', ''])
      expect(await call('echo', '--', word)).toEqual({ ok: true, output: word });
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'grapheme-ascii', maxLength: 60 }), async (word) => {
        expect(await call('echo', '--', word)).toEqual({ ok: true, output: word });
      }),
      { numRuns: 100 },
    );
  });

  it('refuses what its reader would take for its own commands', () => {
    for (const word of ['a\nb', 'a\tb', 'a\0b', '\u0003', 'ü', '\u007f']) expect(() => quoteForVirsh(word)).toThrow('BUG');
  });

  it('transfers any text as JSON in ASCII', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 40 }), async (text) => {
        const answer = await call('echo', '--', asciiJson({ text }));
        expect(answer.ok && JSON.parse(answer.output)).toEqual({ text: text.toWellFormed() });
      }),
      { numRuns: 50 },
    );
  });

  it('transfers words of 100 KB', async () => {
    const word = 'x'.repeat(100_000);
    expect(await call('echo', word)).toEqual({ ok: true, output: word });
  });

  it('does not take one output for the end of another', async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => call('echo', `virsh # echo end-${index}`)));
    expect(answers).toEqual(Array.from({ length: 20 }, (_, index) => ({ ok: true, output: `virsh # echo end-${index}` })));
  });

  it('waits for the echo of its last command, which may come after that command’s output', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'berth-virsh-'));
    const program = join(folder, 'virsh');
    // As virsh does it, except that the echo is late.
    await writeFile(
      program,
      `#!/bin/bash
while IFS= read -r line; do
  if [[ $line == 'echo --err '* ]]; then
    echo "error: \${line#echo --err }" >&2
    sleep 0.1
    echo "virsh # $line"
  else
    printf 'virsh # %s\\n%s' "$line" "$(eval "$line")"
  fi
done
`,
    );
    await chmod(program, 0o755);
    vi.stubEnv('PATH', `${folder}:${process.env.PATH}`);
    const late = openVirsh('test:///default', 1);
    try {
      for (const word of ['first', 'second', 'third'])
        expect(await late.call(['echo', word], 10_000)).toEqual({ ok: true, output: word });
    } finally {
      late.close();
      vi.unstubAllEnvs();
      await rm(folder, { recursive: true });
    }
  });

  it('gives up at the deadline, and the next call starts a new one', async () => {
    const slow = openVirsh('test:///default', 1);
    await expect(slow.call(['event', '--all', '--loop'], 300)).rejects.toThrow(VirshUnresponsive);
    expect(await slow.call(['echo', 'again'], 10_000)).toEqual({ ok: true, output: 'again' });
    slow.close();
  });

  it('serves other calls while one blocks, and the waiting calls when it is over', async () => {
    const two = openVirsh('test:///default', 2);
    const over: string[] = [];
    const note = async (name: string, call: Promise<unknown>): Promise<unknown> => {
      const answer = await call.catch((error: unknown) => error);
      over.push(name);
      return answer;
    };
    const [blocked, meanwhile] = await Promise.all([
      note('blocked', two.call(['event', '--all', '--loop'], 3000)),
      note('meanwhile', two.call(['echo', 'meanwhile'], 10_000)),
    ]);
    expect(over).toEqual(['meanwhile', 'blocked']);
    expect(meanwhile).toEqual({ ok: true, output: 'meanwhile' });
    expect(blocked).toBeInstanceOf(VirshUnresponsive);
    two.close();
  });

  it('reports that it cannot be started', async () => {
    const nowhere = openVirsh('qemu+unix:///system?socket=/nowhere', 1);
    await expect(nowhere.call(['list'], 10_000)).rejects.toThrow(VirshUnresponsive);
    nowhere.close();
  });
});
