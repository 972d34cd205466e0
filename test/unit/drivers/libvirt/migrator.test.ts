import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseCpuSeconds, parseDirtyRate, parseJob, parseResidentMiB } from '../../../../drivers/libvirt/migrator.ts';
import { watchPid } from '../../../../drivers/libvirt/qemu-process.ts';

describe('virsh’s output about a migration job', () => {
  it('is parsed in bytes and milliseconds while the job runs', () => {
    // The output of virsh 11.3.
    const output = [
      'Job type: 2',
      '',
      'operation: 5',
      'time_elapsed: 412',
      'memory_total: 218963968',
      'memory_processed: 86949765',
      'memory_remaining: 1048576',
      'memory_bps: 110200000',
      'memory_dirty_rate: 25',
      'memory_page_size: 4096',
      'memory_iteration: 2',
      '',
    ].join('\n');
    expect(parseJob(output)).toEqual({
      active: true,
      elapsedMs: 412,
      totalBytes: 218_963_968,
      processedBytes: 86_949_765,
      remainingBytes: 1_048_576,
      dirtyBytesPerS: 25 * 4096,
      bytesPerS: 110_200_000,
    });
  });
  it.each(['Job type: 0\n\n', 'Job type: 3\n\noperation: 5\n', 'Job type: 5\n\n', ''])('%j is no active job', (output) => {
    expect(parseJob(output)).toMatchObject({ active: false, processedBytes: 0 });
  });
});

it('is refused in any other form: a job that is overlooked is a VM that may be touched', () => {
  expect(() => parseJob('Job type:         Unbounded   \n')).toThrow('no number');
});

describe('virsh’s output about a guest’s memory', () => {
  it('is read in MiB, and MiB a second', () => {
    expect(parseResidentMiB('actual 196608\nlast_update 0\nrss 145408\n')).toBe(142);
    const measured = [
      "Domain: 'vm'",
      '  dirtyrate.calc_status=2',
      '  dirtyrate.calc_start_time=7',
      '  dirtyrate.calc_period=1',
      '  dirtyrate.megabytes_per_second=33',
      '',
    ];
    expect(parseDirtyRate(measured.join('\n'))).toBe(33);
  });
  it('has its CPU time in seconds', () => {
    expect(parseCpuSeconds("Domain: 'vm'\n  cpu.time=12345678901\n  cpu.user=12000000000\n  cpu.system=345678901\n")).toBeCloseTo(
      12.345678901,
    );
    expect(parseCpuSeconds("Domain: 'vm'\n")).toBeNull();
  });
  it('is unknown before it was measured', () => {
    expect(parseResidentMiB('actual 196608\n')).toBeNull();
    expect(parseDirtyRate("Domain: 'vm'\n  dirtyrate.calc_status=1\n")).toBeNull();
    expect(parseDirtyRate("Domain: 'vm'\n")).toBeNull();
  });
});

describe('the process of a domain', () => {
  const never = new AbortController().signal;

  it('has ended as soon as it executes nothing any more, though its parent has not read its exit code yet', async () => {
    // The program that replaces the shell never waits for its child, which is a zombie from its end on.
    const parent = spawn('sh', ['-c', 'sleep 600 & echo $!; exec sleep 600'], { stdio: ['ignore', 'pipe', 'ignore'] });
    try {
      const [text] = (await once(parent.stdout, 'data')) as [Buffer];
      const pid = Number(text.toString());
      await expect.poll(() => readFileSync(`/proc/${parent.pid}/comm`, 'utf8')).toBe('sleep\n');
      const watched = watchPid(pid)!;
      expect(watched.hasEnded()).toBe(false);
      process.kill(pid, 'SIGKILL');
      await watched.waitForEnd(never);
      expect(watched.hasEnded()).toBe(true);
      expect(existsSync(`/proc/${pid}`)).toBe(true);
    } finally {
      parent.kill('SIGKILL');
    }
  });

  it('is waited for no longer than the caller allows', async () => {
    const watched = watchPid(process.pid)!;
    await expect(watched.waitForEnd(AbortSignal.timeout(20))).rejects.toThrow('timeout');
    expect(watched.hasEnded()).toBe(false);
    expect(watchPid(2 ** 30)).toBeNull();
  });
});
