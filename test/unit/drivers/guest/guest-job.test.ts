import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  type JobRunner,
  type JobSettings,
  parseJobStatus,
  programJobRunner,
  scriptEnv,
  scriptJobRunner,
} from '../../../../drivers/guest/guest-job.ts';
import type { GuestJob, JobResult } from '../../../../drivers/ports/guest.ts';

/** Both run here, with this machine's sh and compiler, as a guest's agent would run them. */
const source = fileURLToPath(new URL('../../../../infra/guest/job.c', import.meta.url));
const built = mkdtempSync(join(tmpdir(), 'berth-job-built-'));
const program = join(built, 'berth-job');
const tools: [string, JobRunner][] = [
  ['the program', programJobRunner(program)],
  ['the script', scriptJobRunner],
];
beforeAll(() => {
  execFileSync('gcc', ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-o', program, source]);
});
afterAll(() => rmSync(built, { recursive: true }));

type ExitedJob = Extract<JobResult, { kind: 'exited' }>;

let tool: JobRunner;
let root: string;
let job: string;
let place: JobSettings;
const env = Object.fromEntries(
  scriptEnv.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]),
);

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'berth-job-'));
  job = join(root, 'berth', 'job');
  place = { folder: job, home: root, graceS: 1 };
});
afterEach(() => {
  run(tool.stop(place));
  rmSync(root, { recursive: true });
});

function run([program, ...args]: string[]): number | null {
  return spawnSync(program!, args, { env, stdio: 'ignore', timeout: 60_000 }).status;
}
/** Its own exit code: the script's when the job has begun, the program's when it has ended. */
async function start(argv: string[], more: Partial<GuestJob> = {}): Promise<number> {
  const [program, ...args] = tool.start({ argv, env: {}, timeoutS: 30, logLimitBytes: 65_536, ...more }, place);
  const [exitCode] = await once(spawn(program!, args, { env, stdio: 'ignore' }), 'exit');
  return exitCode as number;
}
const read = (name: string): string => (existsSync(join(job, name)) ? readFileSync(join(job, name), 'latin1') : '');
async function end(): Promise<JobResult> {
  await expect.poll(() => existsSync(join(job, 'drained')), { timeout: 60_000, interval: 5 }).toBe(true);
  return parseJobStatus(read('status'), 'x')!;
}

describe.each(tools)("a task's command in its guest, run by %s", (_, under) => {
  beforeEach(() => {
    tool = under;
  });

  it('gets its argv and its environment unchanged, and both outputs go to the log', async () => {
    const odd = ['', ' ', '$HOME', '`id`', "it's", '"', '\\', '*', 'a\nb', 'ü', '-n', '--'];
    await start(['sh', '-c', 'printf "<%s>" "$@"; printf "%s|%s|%s" "$A" "$PATH" "$job" >&2', 'x', ...odd], {
      env: { A: 'x y\n$z', PATH: '/usr/bin:/bin', IFS: 'x', job: 'mine', home: '/nowhere', n: '7' },
    });
    expect(await end()).toMatchObject({ kind: 'exited', exitCode: 0, timedOut: false, stopped: false });
    expect(Buffer.from(read('log'), 'latin1').toString()).toBe(
      `${odd.map((word) => `<${word}>`).join('')}x y\n$z|/usr/bin:/bin|mine`,
    );
  });

  it('starts in the working folder and inherits nothing else', async () => {
    await start(['/usr/bin/env', '-i', 'sh', '-c', 'pwd']);
    await end();
    expect(read('log')).toBe(`${root}\n`);
  });

  it('reports its exit code, also those that resemble signals', async () => {
    await start(['sh', '-c', 'exit 143']);
    expect(await end()).toMatchObject({ exitCode: 143, timedOut: false });
  });

  it('runs once, however often it is started', async () => {
    const count = ['sh', '-c', `echo x >>${join(root, 'runs')}`];
    expect(await Promise.all([start(count), start(count), start(count)])).toEqual([0, 0, 0]);
    await end();
    expect(await start(count)).toBe(0);
    expect(readFileSync(join(root, 'runs'), 'utf8')).toBe('x\n');
  });

  it.each([
    ['/nowhere/at-all', /there is no program/],
    ['in/nothing', /there is no program/],
    ['no-such-program', /there is no program/],
    ['.', /there is no program/],
    ['./', /is a directory/],
    ['in/folder', /is a directory/],
    ['in/plain', /without the right to execute it/],
    ['plain', /without the right to execute it/],
  ])('%s never starts, and why is told', async (program, why) => {
    mkdirSync(join(root, 'in', 'folder'), { recursive: true });
    writeFileSync(join(root, 'in', 'plain'), '#!/bin/sh\n', { mode: 0o644 });
    await start([program], { env: { PATH: `${join(root, 'in')}:/usr/bin:/bin`, job: 'another' } });
    expect(await end()).toEqual({ kind: 'notStarted', why: expect.stringMatching(why) });
  });

  it('is found behind a file of its name that is no program', async () => {
    mkdirSync(join(root, 'in'));
    writeFileSync(join(root, 'in', 'true'), '', { mode: 0o644 });
    await start(['true'], { env: { PATH: `${join(root, 'in')}:/usr/bin:/bin` } });
    expect(await end()).toMatchObject({ kind: 'exited', exitCode: 0 });
  });

  it('is ended after its time with everything that it started in its session', async () => {
    const began = performance.now();
    const [one, other] = [`1001.${process.pid}`, `1002.${process.pid}`];
    await start(['bash', '-c', `set -m; trap '' TERM; sleep ${one} & sleep ${other}`], { timeoutS: 1 });
    expect(await end()).toMatchObject({ kind: 'exited', timedOut: true });
    expect(performance.now() - began).toBeGreaterThan(900);
    for (const left of [one, other]) await expect.poll(() => pids(`sleep ${left}`)).toEqual([]);
  });

  it('is ended by a stop, with KILL where TERM has no effect', async () => {
    const stopped = async (): Promise<void> => {
      await expect.poll(() => read('log'), { timeout: 60_000 }).toBe('ready\n');
      expect(run(tool.stop(place))).toBe(0);
    };
    await Promise.all([start(['sh', '-c', `trap '' TERM; echo ready; while :; do sleep 0.2; done`]), stopped()]);
    expect(await end()).toMatchObject({ stopped: true, exitCode: 137, timedOut: false });
  });

  it('that was stopped before its start never starts', async () => {
    expect(run(tool.stop(place))).toBe(0);
    await start(['sh', '-c', `echo x >${join(root, 'ran')}`]);
    expect(await end()).toMatchObject({ kind: 'notStarted' });
    expect(existsSync(join(root, 'ran'))).toBe(false);
  });

  it('is readable in the log while it runs; the log ends at its limit without disturbing the command', async () => {
    const [go, ended] = [join(root, 'go'), join(root, 'end')];
    const script = `echo first; until [ -e ${go} ]; do sleep 0.05; done; head -c 200000 /dev/zero; echo end >${ended}`;
    const seen = async (): Promise<void> => {
      await expect.poll(() => read('log'), { timeout: 60_000 }).toBe('first\n');
      execFileSync('touch', [go]);
    };
    await Promise.all([start(['sh', '-c', script], { logLimitBytes: 10_240 }), seen()]);
    const result = await end();
    expect(result).toMatchObject({ exitCode: 0 });
    expect(read('log').length + read('tail').length).toBe(10_240);
    expect(existsSync(join(root, 'end'))).toBe(true);
  });
});

describe("the program's own output", () => {
  it('is the status line, with the length of the log, once', async () => {
    tool = programJobRunner(program);
    const [path, ...args] = tool.start({ argv: ['echo', 'four'], env: {}, timeoutS: 30, logLimitBytes: 100 }, place);
    const said = spawnSync(path!, args, { env, encoding: 'utf8', timeout: 60_000 }).stdout;
    expect(said).toBe(read('status'));
    const tail = { leftOutBytes: 0, bytes: 0, from: 0 };
    expect(parseJobStatus(said, 'echo')).toMatchObject({ kind: 'exited', exitCode: 0, signal: null, logBytes: 5, tail });
    // A later call has not started it, and reads the folder.
    expect(spawnSync(path!, args, { env, encoding: 'utf8', timeout: 60_000 })).toMatchObject({ status: 0, stdout: '' });
  });
});

describe('the end of an output that is longer than its log, kept by the program', () => {
  const numbered = (count: number): string => Array.from({ length: count }, (_, index) => `${index + 1}\n`).join('');
  beforeEach(() => {
    tool = programJobRunner(program);
  });

  // Below the limit, at it, above it by one, around it by a part, twice, and by so much that a write is longer than the ring.
  it.each([0, 1, 749, 750, 751, 999, 1000, 1001, 1100, 1250, 1251, 1500, 3333, 100_000])(
    'is the ring, after what is said to be left out: %i bytes',
    async (bytes) => {
      const output = numbered(30_000).slice(0, bytes);
      writeFileSync(join(root, 'output'), output);
      await start(['cat', 'output'], { logLimitBytes: 1000 });
      expect(await end()).toMatchObject(expectedEnd(bytes));
      expect(logOf((await end()) as ExitedJob)).toEqual([
        output.slice(0, 750),
        Math.max(0, bytes - 1000),
        output.slice(Math.max(750, bytes - 250)),
      ]);
    },
  );

  it('is right whatever the pieces are in which it comes', async () => {
    const output = numbered(900);
    writeFileSync(join(root, 'output'), output);
    const script = 'exec 3<output; while dd bs=97 count=1 <&3 2>/dev/null >piece; [ -s piece ]; do cat piece; done';
    await start(['sh', '-c', script], { logLimitBytes: 1000 });
    expect(logOf((await end()) as ExitedJob)).toEqual([
      output.slice(0, 750),
      output.length - 1000,
      output.slice(output.length - 250),
    ]);
  });

  it('is left out, and told, where the guest can keep no ring', async () => {
    // In the place of the ring is a folder: as with a full file system, nothing can be written there.
    const hold = `mkdir ${join(job, 'tail')}; head -c 5000 /dev/zero; echo end >${join(root, 'end')}`;
    await start(['sh', '-c', hold], { logLimitBytes: 1000 });
    expect(await end()).toMatchObject({ exitCode: 0, logBytes: 750, tail: { leftOutBytes: 4250, bytes: 0, from: 0 } });
    expect(existsSync(join(root, 'end'))).toBe(true);
  });

  it('is not kept for a host that does not ask for it, which reads the line that it knows', async () => {
    const [path, ...args] = tool.start(
      { argv: ['sh', '-c', 'head -c 5000 /dev/zero'], env: {}, timeoutS: 30, logLimitBytes: 1000 },
      place,
    );
    const asEarlier = args.map((word) => (word === '+1000' ? '1000' : word));
    const said = spawnSync(path!, asEarlier, { env, encoding: 'utf8', timeout: 60_000 }).stdout;
    expect(said).toMatch(/^exit 0 0 0 \d+\.\d\d \d+\.\d\d 1000\n$/);
    expect([read('log').length, existsSync(join(job, 'tail'))]).toEqual([1000, false]);
    expect(parseJobStatus(said, 'head')).toMatchObject({ signal: 'unknown', logBytes: 1000, tail: null });
  });

  const expectedEnd = (bytes: number) => ({
    exitCode: 0,
    logBytes: Math.min(bytes, 750),
    tail: { leftOutBytes: Math.max(0, bytes - 1000), bytes: Math.min(250, Math.max(0, bytes - 750)) },
  });

  /** The log, how much is left out, and the tail from its begin. */
  function logOf({ tail }: ExitedJob): [string, number, string] {
    const { leftOutBytes, bytes, from } = tail!;
    const ring = read('tail').slice(0, bytes);
    return [read('log'), leftOutBytes, ring.slice(from) + ring.slice(0, from)];
  }
});

describe('how a command ended, as the program tells it', () => {
  beforeEach(() => {
    tool = programJobRunner(program);
  });

  it.each([
    ['exit 137', 137, null],
    ['exit 150', 150, null],
    ['kill -KILL $$', 137, 9],
    ['kill -TERM $$', 143, 15],
    ['kill -SEGV $$', 139, 11],
    // Of a child: the shell exits with a code, and no signal has ended it.
    ["sh -c 'kill -KILL $$'; exit $?", 137, null],
  ])('%s is exit code %i and signal %s', async (script, exitCode, signal) => {
    await start(['sh', '-c', `ulimit -c 0; ${script}`]);
    expect(await end()).toMatchObject({ exitCode, signal });
  });
});

describe('the status line', () => {
  it('counts only when it is complete', () => {
    expect(parseJobStatus('', 'x')).toBeNull();
    expect(parseJobStatus('exit 1 0 0 1.00 2.0', 'x')).toBeNull();
    expect(parseJobStatus('exit 1 0 0 1.00 2.50\n', 'x')).toMatchObject({ exitCode: 1, seconds: 1.5, logBytes: null });
    const complete = 'exit 137 0 0 1.00 2.50 750 9 4000 250 17\n';
    for (let length = 0; length < complete.length; length += 1) expect(parseJobStatus(complete.slice(0, length), 'x')).toBeNull();
    expect(parseJobStatus(complete, 'x')).toMatchObject({ signal: 9, tail: { leftOutBytes: 4000, bytes: 250, from: 17 } });
  });

  it.each([
    'whatever\n',
    'constructor\n',
    // The exit code of the issue, and numbers that no line of berth-job has.
    'exit 99999999999 0 0 1.0 2.0\n',
    'exit -1 0 0 1.0 2.0\n',
    'exit 0 2 0 1.0 2.0\n',
    `exit 0 0 0 1.0 ${'9'.repeat(400)}.0\n`,
    'exit 0 0 0 1e300 1e308\n',
    'exit 0 0 0 NaN Infinity\n',
    `exit 0 0 0 1.0 2.0 ${'9'.repeat(30)}\n`,
    'exit 0 0 0 1.0 2.0\nexit 1 0 0 1.0 2.0\n',
    // Half of the fields, a signal that is not that of its code or is none, and a tail that begins outside of itself.
    'exit 0 0 0 1.0 2.0 5 0\n',
    'exit 0 0 0 1.0 2.0 5 0 0 0\n',
    'exit 0 0 0 1.0 2.0 5 9 0 0 0\n',
    'exit 193 0 0 1.0 2.0 5 65 0 0 0\n',
    'exit 0 0 0 1.0 2.0 5 0 0 10 10\n',
    'exit 0 0 0 1.0 2.0 5 0 0 -1 0\n',
    'exit 0 0 0 1.0 2.0 5 0 0 0 1\n',
    `${' '.repeat(100_000)}\n`,
    'x'.repeat(2 ** 20),
  ])('that no job can have written is refused, and not read again: %j', (text) => {
    expect(() => parseJobStatus(text, 'x')).toThrow(expect.objectContaining({ code: 'guest-invalid', retryable: false }));
  });
});

/** Processes with this command line. */
function pids(commandLine: string): string[] {
  const { stdout } = spawnSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' });
  return stdout.split('\n').filter((line) => line.trim().replace(/^\d+\s+/, '') === commandLine);
}
