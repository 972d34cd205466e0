import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../host/files.ts';

/** @param list as the kernel has it, such as `0-3,6` */
function processorsOf(list: string): number[] {
  return list
    .trim()
    .split(',')
    .flatMap((range) => {
      const [first, last = first] = range.split('-').map(Number);
      return Array.from({ length: last! - first! + 1 }, (_, index) => first! + index);
    });
}

/** A kernel's mask of processors: groups of 32, the highest first. */
export function maskOf(processors: readonly number[]): string {
  const digits = processors.reduce((mask, processor) => mask | (1n << BigInt(processor)), 0n).toString(16);
  const padded = digits.padStart(Math.ceil(digits.length / 8) * 8, '0');
  return padded.match(/.{8}/g)!.join(',');
}

/**
 * Lets each processor work on what an interface receives (receive packet steering): else those that its interrupts come to forward
 * everything. A connection stays on one of them, so its packets keep their order. An interface with a queue for each processor needs
 * it not, and a mask that somebody else has set stays.
 * @param sys where sysfs is mounted
 */
export async function spreadReceived(device: string, sys = '/sys'): Promise<void> {
  const processors = processorsOf(await readFile(join(sys, 'devices/system/cpu/online'), 'utf8'));
  const queues = (await readdir(join(sys, 'class/net', device, 'queues'))).filter((name) => name.startsWith('rx-'));
  if (queues.length >= processors.length) return;
  for (const queue of queues) await steer(join(sys, 'class/net', device, 'queues', queue, 'rps_cpus'), maskOf(processors));
}

/** A kernel without it, or a container's sysfs that is not to be written: the packets are forwarded all the same. */
async function steer(path: string, mask: string): Promise<void> {
  try {
    if (/^[0,]*$/.test((await readFile(path, 'utf8')).trim())) await writeFile(path, mask);
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'EROFS')) throw error;
  }
}
