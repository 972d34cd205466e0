import { tmpdir } from 'node:os';
import { expect, it } from 'vitest';
import {
  parseDevices,
  parseDisks,
  parseMemory,
  parsePressure,
  parseProcessors,
  readMachineCounters,
} from '../../../../drivers/host/machine-counters.ts';
import { procFiles } from '../../../fuzz/targets/counters.ts';

it("reads the kernel's counters: idle processors and those that wait for disks are not busy, partitions are not counted twice", () => {
  expect(parseProcessors(procFiles.stat)).toEqual([
    { busy: 250, total: 500 },
    { busy: 150, total: 500 },
  ]);
  expect(parseMemory(procFiles.meminfo)).toEqual({ totalMiB: 8192, usedMiB: 6144 });
  expect(parseDisks(procFiles.diskstats)).toEqual({ readBytes: 2 ** 20, writtenBytes: 2 ** 21 });
  expect(parseDevices(procFiles.devices)).toEqual({ receivedBytes: 2 ** 20, sentBytes: 2 ** 19 });
  expect(parsePressure(procFiles.pressure)).toBe(123_456);
});

it.each([
  ['/proc/stat', () => parseProcessors('cpu  1 2 3 4 5\n')],
  ['/proc/meminfo', () => parseMemory('MemTotal: 1 kB\n')],
  ['/proc/diskstats', () => parseDisks('8 0 sda 1 2\n')],
  ['/proc/net/dev', () => parseDevices('a\nb\neth0: 1 2 3\n')],
  ['/proc/pressure', () => parsePressure('full total=3\n')],
])('says what of %s it does not know', (file, parse) => {
  expect(parse).toThrow(`${file} has`);
});

it('reads this machine', async () => {
  const first = await readMachineCounters(tmpdir());
  const second = await readMachineCounters(tmpdir());
  expect(second.processors).toHaveLength(first.processors.length);
  expect(second.processors.every(({ busy, total }) => busy > 0 && busy <= total)).toBe(true);
  expect(second.memory.usedMiB).toBeLessThan(second.memory.totalMiB);
  expect(second.disk.usedMiB).toBeLessThanOrEqual(second.disk.totalMiB);
  expect(second.atMs).toBeGreaterThanOrEqual(first.atMs);
});
