import type { DomainEnd } from '../../contracts/domain.ts';
import { readTail } from '../host/files.ts';

/** A guest can make QEMU print; libvirt's own lines are few. Each of the two files is 2 MiB at the most (virtlogd.conf). */
const tailBytes = 256 * 1024;

/** Where libvirt's QEMU driver and QEMU itself write about a domain; virtlogd keeps one older file. */
export const domainLogFolder = '/var/log/libvirt/qemu';

/** The end of the last domain of this name, from the files that libvirt writes; null where they don't have it. */
export async function readDomainEnd(folder: string, name: string): Promise<DomainEnd | null> {
  const files = [`${folder}/${name}.log.0`, `${folder}/${name}.log`];
  const tails = await Promise.all(files.map((file) => readTail(file, tailBytes)));
  return parseDomainLog(Buffer.concat(tails).toString('latin1'));
}

/** libvirt's names of reasons (qemuDomainLogAppendMessage in qemuProcessStop). */
const endings: Readonly<Record<string, DomainEnd['how']>> = {
  shutdown: 'poweredOff',
  crashed: 'crashed',
  destroyed: 'destroyed',
  saved: 'left',
  migrated: 'left',
};

/**
 * libvirt writes `<time>: starting up libvirt version: …` and `<time>: shutting down, reason=…`. QEMU writes to the same
 * file, and a guest has a say in that; lines that claim to be libvirt's begin with its time.
 */
export function parseDomainLog(text: string): DomainEnd | null {
  const pattern = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d{3})\+0000: (?:starting up|shutting down, reason=([a-z-]+))/gm;
  let startedMs: number | null = null;
  let end: DomainEnd | null = null;
  for (const [, date, time, reason] of text.matchAll(pattern)) {
    const atMs = Date.parse(`${date}T${time}Z`);
    if (reason === undefined) startedMs = atMs;
    end =
      reason === undefined
        ? { how: 'unknown', startedMs, endedMs: null }
        : { how: endings[reason] ?? 'destroyed', startedMs, endedMs: atMs };
  }
  return end;
}
