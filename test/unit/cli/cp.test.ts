import { spawn } from 'node:child_process';
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { WebSocket } from 'ws';
import { run } from '../../../drivers/host/run-process.ts';
import { end, endOf, type GuestApi, openGuestApi, say, takeInput, vm } from './guest-api.ts';

let folder: string;
let api: GuestApi;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-cp-'));
  for (const name of ['here', 'there']) await mkdir(join(folder, name));
  api = await openGuestApi();
});
afterEach(async () => {
  api.close();
  await run(['rm', '-rf', folder], { deadlineMs: 10_000 });
});

const here = (...names: string[]): string => join(folder, 'here', ...names);
const there = (...names: string[]): string => join(folder, 'there', ...names);

/** Runs the command, as a guest whose files are in `there`. */
function runs(socket: WebSocket, [command = '', ...words]: string[]): void {
  const child = spawn(command, words, { cwd: there(), stdio: 'pipe' });
  takeInput(
    socket,
    (bytes, taken) => child.stdin.write(bytes, taken),
    () => child.stdin.end(),
  );
  child.stdin.on('error', () => undefined);
  child.stdout.on('data', (bytes) => say(socket, 1, bytes));
  child.stderr.on('data', (bytes) => say(socket, 2, bytes));
  child.once('close', (code) => end(socket, code ?? 1));
}

const partBytes = 16_384;

/** Sends the content of an archive that was made here. */
const sends = (archive: Buffer) => (socket: WebSocket) => {
  for (let at = 0; at < archive.length; at += partBytes) say(socket, 1, archive.subarray(at, at + partBytes));
  end(socket, 0);
};

/** An archive that this script has made in a folder of its own. */
async function archiveOf(script: string): Promise<Buffer> {
  const at = join(folder, 'archived');
  await mkdir(at);
  await run(['sh', '-ec', `cd ${at}; ${script}`], { deadlineMs: 10_000 });
  return readFile(join(at, 'archive'));
}

/** Ends only where nothing of the program is left that waits. */
const cp = (from: string, to: string): Promise<{ code: number | null; error: string }> =>
  endOf(api.start(['cp', '--', from, to], here()));

const done = { code: 0, error: '' };

test('a copy out of a VM that the API refuses ends with the reason, and leaves nothing', async () => {
  expect(await cp(`${vm}:/srv/site`, here())).toEqual({ code: 1, error: 'berth: Conflict (conflict): it does not run\n' });
  expect(await readdir(here())).toEqual([]);
});

test('a copy into a VM that the API refuses ends with the reason', async () => {
  // More than a pipe holds.
  await writeFile(here('large'), Buffer.alloc(2 ** 20));
  expect(await cp(here('large'), `${vm}:/srv`)).toEqual({
    code: 1,
    error: 'berth: Conflict (conflict): it does not run\n',
  });
});

describe('a copy', () => {
  beforeEach(() => {
    api.guest = runs;
  });

  test.each([
    'plain',
    'two words',
    '-x',
    '--checkpoint=1',
    '--use-compress-program=touch pwned',
    'a\nb\n',
    '$(touch pwned)',
    "'",
    'é',
    '*',
  ])('of a file that is called %j goes in, and out again', async (name) => {
    await writeFile(here(name), name);
    expect(await cp(name, `${vm}:${there('deep/er')}`)).toEqual(done);
    expect(await readdir(there('deep'))).toEqual(['er']);
    await rm(there('deep'), { recursive: true });
    expect(await cp(name, `${vm}:${there()}`)).toEqual(done);
    expect(await readdir(there())).toEqual([name]);
    await rm(here(name));
    expect(await cp(`${vm}:${name}`, '.')).toEqual(done);
    expect(await readdir(here())).toEqual([name]);
    expect(await readFile(here(name), 'utf8')).toBe(name);
  });

  test('to a name that begins with a minus has that name', async () => {
    await writeFile(here('file'), 'x');
    expect(await cp('file', `${vm}:-rf`)).toEqual(done);
    expect(await readdir(there())).toEqual(['-rf']);
    expect(await cp(`${vm}:-rf`, './--help')).toEqual(done);
    expect((await readdir(here())).sort()).toEqual(['--help', 'file']);
  });

  test('of a folder replaces what has its name, with links as they are, also where nothing may be written', async () => {
    await mkdir(here('site/nested'), { recursive: true });
    await writeFile(here('site/nested/one'), '1');
    await symlink('../../outside', here('site/link'));
    await chmod(here('site/nested'), 0o555);
    await mkdir(there('site'));
    await writeFile(there('site/old'), 'old');
    expect(await cp('site', `${vm}:${there()}`)).toEqual(done);
    expect((await readdir(there('site'))).sort()).toEqual(['link', 'nested']);
    await writeFile(here('site/old'), 'old');
    expect(await cp(`${vm}:${there('site')}`, '.')).toEqual(done);
    expect((await readdir(here('site'))).sort()).toEqual(['link', 'nested']);
    expect((await lstat(here('site/link'))).isSymbolicLink()).toBe(true);
    expect((await readdir(here())).sort()).toEqual(['site']);
  });

  test.each(['/', '.', '..', '/srv/..', '/srv/.', './'])('of %j is refused, and removes nothing', async (path) => {
    await writeFile(here('mine'), 'mine');
    const { code, error } = await cp(`${vm}:${path}`, '.');
    expect([code, error]).toEqual([2, expect.stringContaining('has no name')]);
    expect(await readdir(here())).toEqual(['mine']);
  });

  test('of what is not there says so, without what would change a terminal', async () => {
    await writeFile(here('mine'), 'mine');
    const { code, error } = await cp(`${vm}:\u001b]0;x\u0007\u202e`, 'mine');
    expect([code, error]).toEqual([1, expect.stringMatching(/No such file/)]);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none of them may be there
    expect(error).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u0080-\u009f\u202e]/);
    expect(await readdir(here())).toEqual(['mine']);
  });
});

describe('a guest that sends', () => {
  const out = () => cp(`${vm}:/srv/site`, '.');
  beforeEach(async () => {
    await mkdir(here('site'));
    await writeFile(here('site/mine'), 'mine');
  });
  const expectUntouched = async () => {
    expect(await readdir(here())).toEqual(['site']);
    expect(await readdir(here('site'))).toEqual(['mine']);
  };

  test('what tar here gives up on, and more without an end, does not hold up its client, and replaces nothing', async () => {
    api.guest = (socket) => {
      // As gzip begins.
      say(socket, 1, Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]));
      const timer = setInterval(() => {
        if (socket.bufferedAmount < 2 ** 20) say(socket, 1, Buffer.alloc(partBytes, 'no archive '));
      }, 1);
      socket.once('close', () => clearInterval(timer));
    };
    expect(await out()).toEqual({ code: 1, error: expect.stringContaining('tar ended with the exit code 2') });
    await expectUntouched();
  });

  test('an error with colours and a new title of the terminal has that printed as what it is', async () => {
    api.guest = (socket) => {
      say(socket, 2, Buffer.from('\u001b]0;owned\u0007\u001b[31mno\nsuch\u009b2J'));
      end(socket, 1);
    };
    expect(await out()).toEqual({ code: 1, error: 'berth: ?]0;owned??[31mno\nsuch?2J\n' });
    await expectUntouched();
  });

  test.each([
    ['nothing', 'tar -c -f archive -T /dev/null'],
    ['another name', 'mkdir other; tar -c -f archive other'],
  ])('%s replaces nothing', async (_, script) => {
    api.guest = sends(await archiveOf(script));
    expect(await out()).toEqual({ code: 1, error: 'berth: The VM sent nothing of that name\n' });
    await expectUntouched();
  });

  test('names and links that lead out of the folder reaches nothing there', async () => {
    const outside = join(folder, 'outside');
    await mkdir(outside);
    const script = `mkdir site; echo evil > site/evil; ln -s ${outside} site/link
tar -c -P -f archive --transform 's,^site/evil,${outside}/absolute,' --transform 's,^site$,site,' site
tar -r -P -f archive --transform 's,site/evil,site/../../../outside/dots,' site/evil
tar -r -P -f archive --transform 's,site/evil,site/link/through,' site/evil`;
    api.guest = sends(await archiveOf(script));
    const { code } = await out();
    expect(await readdir(outside)).toEqual([]);
    // tar tells of what it refuses by its exit code: then nothing of it is taken.
    expect(code).not.toBe(0);
    await expectUntouched();
  });

  test('programs that run as another user, devices and pipes leaves their bytes alone', async () => {
    // Without its rights no other user's file can be made here, and no device.
    const asRoot = process.getuid!() === 0 ? '; chown 1234:1234 site/suid; mknod site/null c 1 3' : '';
    const script = `umask 0; mkdir site; echo run > site/suid; chmod 6777 site/suid; mkfifo site/pipe${asRoot}; chmod 0500 site`;
    api.guest = sends(await archiveOf(`${script}; tar -c -f archive site`));
    const { code, error } = await out();
    const left = (name: string) => `berth: "${name}" is a device, a pipe or a socket, and was not copied`;
    expect([code, error.trim().split('\n').sort()]).toEqual([0, asRoot === '' ? [left('pipe')] : [left('null'), left('pipe')]]);
    expect(await readdir(here('site'))).toEqual(['suid']);
    const { mode, uid } = await lstat(here('site/suid'));
    expect([mode & 0o6000, uid]).toEqual([0, process.getuid!()]);
  });

  test('folders that nest deeper than a path may be long leaves nothing', async () => {
    const script = `top=$PWD; name=$(printf '%0200d' 0); i=0; mkdir site; cd site
while [ $i -lt 60 ]; do mkdir $name; cd -P ./$name; i=$((i+1)); done; tar -c -f $top/archive -C $top site`;
    api.guest = sends(await archiveOf(script));
    expect((await out()).code).toBe(1);
    await expectUntouched();
  });
});
