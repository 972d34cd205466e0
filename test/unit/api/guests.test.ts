import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadCommand, parseTimes } from '../../../api/guests/load-test.ts';
import { parseProcesses, processesCommand, processLimits } from '../../../api/guests/processes.ts';
import { BerthError } from '../../../model/errors.ts';
import { textsProblem } from '../../../model/streams/frames.ts';

/** The commands are run here as they are in a guest: by a POSIX shell, with the kernel's own /proc. */
function run(argv: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(argv[0]!, argv.slice(1), { encoding: 'utf8', timeout: 30_000 });
  return { status, stdout, stderr };
}

/** Of all processes of this machine. */
function commandLines(): string[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      return [readFileSync(`/proc/${name}/cmdline`, 'utf8')];
    } catch {
      return [];
    }
  });
}

const stat = (pid: number, name: string, ticks: number) =>
  `${pid} (${name}) S 1 1 1 0 -1 4194560 10 20 0 0 ${ticks} 5 0 0 20 0 3 0 100 1000000 512 18446744073709551615 1 1 0 0 0 0 0\n`;
const reading = (uptime: string, stats: string) => `${uptime} 3.00\n${stats}`;
const head = '0.10 0.20 0.30 1/99 1234\nMemTotal:      256000 kB\nMemAvailable:  128000 kB\n';

describe("a guest's processes", () => {
  it('are those of this machine, with what they did between the readings', () => {
    const { status, stdout } = run(processesCommand(0.2));
    expect(status).toBe(0);
    const view = parseProcesses(stdout);
    expect(view.uptimeS).toBeGreaterThan(0);
    expect(view.memory!.totalMiB).toBeGreaterThan(view.memory!.availableMiB);
    expect(view.processes.find(({ pid }) => pid === process.pid)).toMatchObject({ state: expect.stringMatching(/^[A-Z]$/) });
    expect(view.processes.find(({ pid }) => pid === process.pid)!.memoryMiB).toBeGreaterThan(10);
  });

  it('have the share of a processor that they used, whatever their names are', () => {
    const names = ['sh', 'a b', 'x) S 1 (y', '\u001b[2Jz'];
    const stats = (more: number) => names.map((name, at) => stat(at + 1, name, 100 + at * more)).join('');
    const output = `${head}==\n${reading('10.00', stats(0))}==\n${reading('12.00', stats(50))}`;
    const { processes, loadAverages, memory } = parseProcesses(output);
    expect(processes.map(({ pid, name, cpus }) => [pid, name, cpus])).toEqual([
      [4, '?[2Jz', 0.75],
      [3, 'x) S 1 (y', 0.5],
      [2, 'a b', 0.25],
      [1, 'sh', 0],
    ]);
    expect(processes[0]).toMatchObject({ memoryMiB: 2, threads: 3, cpuS: 2.55 });
    expect([loadAverages, memory]).toEqual([[0.1, 0.2, 0.3], { totalMiB: 250, availableMiB: 125 }]);
  });

  it('are bounded, and anything else is refused', () => {
    const many = Array.from({ length: processLimits.processes + 50 }, (_, at) => stat(at + 1, 'x', 1)).join('');
    const output = `${head}==\n${reading('10.00', many)}==\n${reading('12.00', many)}`;
    expect(parseProcesses(output).processes).toHaveLength(processLimits.processes);
    for (const wrong of ['', head, `${head}==\n==\n`, output.replace('==\n', ''), `${output}==\n`, output.replaceAll('(x)', 'x')])
      expect(() => parseProcesses(wrong)).toThrow(BerthError);
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 3000 }), fc.nat(output.length), (text, at) => {
        const damaged = output.slice(0, Math.min(at, 2000)) + text + output.slice(output.length - 300);
        try {
          parseProcesses(damaged);
        } catch (error) {
          expect(error).toBeInstanceOf(BerthError);
        }
      }),
    );
  });
});

describe('a load test', () => {
  const test = { kind: 'processors', cpus: 1, memoryMiB: 8, seconds: 1, startMs: null } as const;

  it.each([
    [{ ...test, cpus: 1.5 }, 0.7],
    [{ ...test, kind: 'memory' as const }, 0],
    [{ ...test, kind: 'disk' as const }, 0],
  ])('%o ends by itself, and says what it took', (order, leastS) => {
    const began = performance.now();
    const { status, stdout, stderr } = run(loadCommand(order));
    expect([status, stderr]).toEqual([0, '']);
    expect(performance.now() - began).toBeGreaterThan(990);
    expect(parseTimes(stdout)).toBeGreaterThanOrEqual(leastS * 0.2);
    expect(commandLines().filter((words) => words.includes('berth-load-'))).toEqual([]);
  });

  it('begins when it is to, and keeps a part of a processor busy for that part of each second', () => {
    const began = Date.now();
    const { status, stdout } = run(loadCommand({ ...test, cpus: 0.3, seconds: 2, startMs: began + 700 }));
    expect([status, Date.now() - began >= 2650]).toEqual([0, true]);
    const tookS = parseTimes(stdout)!;
    expect(tookS).toBeGreaterThan(0.05);
    expect(tookS).toBeLessThan(1);
  });

  it('fits into a frame of a session, and its times are only times', () => {
    const request = {
      kind: 'pipes',
      size: { rows: 0, cols: 0 },
      timeoutS: 0,
      folder: '/',
      env: [],
      argv: loadCommand(test),
    } as const;
    expect(textsProblem({ ...request, env: [], argv: [...request.argv] })).toBeNull();
    expect(parseTimes('0m0.00s 0m0.00s\n1m2.5s 0m0.5s\n')).toBe(63);
    for (const wrong of ['', 'x', '1m2s', '99999999m1s 1m1s']) expect(parseTimes(wrong)).toBeNull();
  });
});
