import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { readGuestGroup } from '../../../../drivers/host/guest-group.ts';
import type { GroupCounters, MachineCounters } from '../../../../drivers/ports/load/load-meter.ts';
import { pressureBetween, processorsOf, useBetween } from '../../../../workers/load/load-between.ts';

async function folder(files: Record<string, string>): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'berth-group-'));
  onTestFinished(() => rm(path, { recursive: true }));
  for (const [name, text] of Object.entries(files)) await writeFile(join(path, name), text);
  return path;
}
const psi = (total: number) =>
  `some avg10=0.00 avg60=0.00 avg300=0.00 total=${total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n`;

it('reads a group of cgroup v1, whose processors and time are in two folders', async () => {
  const cpu = await folder({
    'cpu.cfs_quota_us': '60000\n',
    'cpu.cfs_period_us': '100000\n',
    'cpu.stat': 'nr_periods 40\nnr_throttled 10\nthrottled_time 5\n',
  });
  const time = await folder({ 'cpuacct.usage': '2500000000\n' });
  expect(await readGuestGroup([cpu, time])).toEqual({
    processors: 0.6,
    isLimited: true,
    usedS: 2.5,
    periods: 40,
    throttledPeriods: 10,
    pressureUs: null,
  });
});

it('reads a group of cgroup v2, with its pressure, and one without a limit', async () => {
  const stat = 'usage_usec 2500000\nuser_usec 1\nsystem_usec 1\nnr_periods 4\nnr_throttled 1\nthrottled_usec 9\n';
  const pressure = { 'cpu.pressure': psi(7), 'memory.pressure': psi(8), 'io.pressure': psi(9) };
  const limited = await folder({ 'cpu.stat': stat, 'cpu.max': '150000 100000\n', ...pressure });
  expect(await readGuestGroup([limited])).toEqual({
    processors: 1.5,
    isLimited: true,
    usedS: 2.5,
    periods: 4,
    throttledPeriods: 1,
    pressureUs: { cpu: 7, memory: 8, io: 9 },
  });
  const open = await folder({ 'cpu.stat': stat, 'cpu.max': 'max 100000\n', ...pressure });
  expect(await readGuestGroup([open])).toMatchObject({ processors: availableParallelism(), isLimited: false });
  expect(await readGuestGroup([])).toBeNull();
  await expect(readGuestGroup([await folder({})])).rejects.toThrow('There is no control group in');
});

const group = (more: Partial<GroupCounters> = {}): GroupCounters => ({
  processors: 0.5,
  isLimited: true,
  usedS: 0,
  periods: 0,
  throttledPeriods: 0,
  pressureUs: null,
  ...more,
});
const counters = (atS: number, busy: number, guests: GroupCounters | null): MachineCounters => ({
  atMs: atS * 1000,
  processors: [
    { busy, total: atS },
    { busy, total: atS },
  ],
  pressureUs: { cpu: busy * 1e6, memory: 0, io: 0 },
  guests,
  memory: { totalMiB: 1, usedMiB: 1 },
  disk: { totalMiB: 1, usedMiB: 1 },
  readBytes: 0,
  writtenBytes: 0,
  receivedBytes: 0,
  sentBytes: 0,
});

it('a host with a limit is as busy as its guests, whatever else the machine does', () => {
  const before = counters(0, 0, group());
  expect(useBetween(before, counters(10, 9, group({ usedS: 2, periods: 100, throttledPeriods: 3 })))).toBeCloseTo(0.4);
  // A part of what it may use is lost between processors: it is stopped in nearly every period all the same.
  const stopped = counters(10, 1, group({ usedS: 4.5, periods: 100, throttledPeriods: 99 }));
  expect(useBetween(before, stopped)).toBeCloseTo(0.99);
  expect(pressureBetween(before, stopped)).toBeNull();
  expect(processorsOf(stopped)).toBe(0.5);
});

it('without a limit a host is as busy as its machine, and its pressure is that of its guests', () => {
  const open = { processors: 2, isLimited: false };
  const before = counters(0, 0, group({ ...open, pressureUs: { cpu: 0, memory: 0, io: 0 } }));
  const after = counters(10, 9, group({ ...open, usedS: 5, pressureUs: { cpu: 1e6, memory: 0, io: 0 } }));
  expect(useBetween(before, after)).toBeCloseTo(0.9);
  expect(pressureBetween(before, after)?.cpu).toBeCloseTo(0.1);
  expect(processorsOf(counters(1, 0, null))).toBe(2);
});
