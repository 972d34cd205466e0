import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { maskOf, spreadReceived } from '../../../../drivers/network/receive-queues.ts';

let sys: string;
const queue = (index: number): string => join(sys, 'class/net/eth0/queues', `rx-${index}`);
const maskOfQueue = async (index: number): Promise<string> => (await readFile(join(queue(index), 'rps_cpus'), 'utf8')).trim();

/** @param masks of the queues that it receives by */
async function machine(online: string, masks: readonly string[]): Promise<void> {
  await mkdir(join(sys, 'devices/system/cpu'), { recursive: true });
  await writeFile(join(sys, 'devices/system/cpu/online'), `${online}\n`);
  await mkdir(join(sys, 'class/net/eth0/queues/tx-0'), { recursive: true });
  for (const [index, mask] of masks.entries()) {
    await mkdir(queue(index), { recursive: true });
    await writeFile(join(queue(index), 'rps_cpus'), `${mask}\n`);
  }
}

beforeEach(async () => {
  sys = await mkdtemp(join(tmpdir(), 'berth-sys-'));
});
afterEach(() => rm(sys, { recursive: true, force: true }));

it('writes processors as a kernel reads them', () => {
  expect(maskOf([0, 1])).toBe('00000003');
  expect(maskOf([0, 1, 2, 3, 6])).toBe('0000004f');
  expect(maskOf([0, 33])).toBe('00000002,00000001');
});

describe('what an interface receives', () => {
  it('is worked on by each processor that is online', async () => {
    await machine('0-3,6', ['00', '00']);
    await spreadReceived('eth0', sys);
    expect([await maskOfQueue(0), await maskOfQueue(1)]).toEqual(['0000004f', '0000004f']);
  });

  it('stays where a queue is for each processor, or somebody has decided', async () => {
    await machine('0-1', ['0', '0']);
    await spreadReceived('eth0', sys);
    expect(await maskOfQueue(0)).toBe('0');
    await rm(queue(1), { recursive: true });
    await writeFile(join(queue(0), 'rps_cpus'), '2');
    await spreadReceived('eth0', sys);
    expect(await maskOfQueue(0)).toBe('2');
  });

  it('stays with a kernel that can’t steer', async () => {
    await machine('0-1', ['0']);
    await rm(join(queue(0), 'rps_cpus'));
    await spreadReceived('eth0', sys);
  });

  it('is no question where there is no such interface', async () => {
    await machine('0-1', ['0']);
    await expect(spreadReceived('eth7', sys)).rejects.toThrow('ENOENT');
  });
});
