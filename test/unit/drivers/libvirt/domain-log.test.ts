import { expect, it } from 'vitest';
import { domainOfEvent } from '../../../../drivers/libvirt/domain-events.ts';
import { parseDomainLog } from '../../../../drivers/libvirt/domain-log.ts';

/** As libvirt 11.3 and QEMU 10.0 write it. */
const started = '2026-11-29 08:00:01.250+0000: starting up libvirt version: 11.3.0, package: 3, qemu version: 10.0.3\n';
const ended = (reason: string) => `2026-11-29 08:05:00.500+0000: shutting down, reason=${reason}\n`;

it.each([
  ['shutdown', 'poweredOff'],
  ['crashed', 'crashed'],
  ['destroyed', 'destroyed'],
  ['saved', 'left'],
  ['migrated', 'left'],
  ['failed', 'destroyed'],
])('reads an end by %s', (reason, how) => {
  expect(parseDomainLog(`${started}LC_ALL=C /usr/bin/qemu-system-x86_64\n${ended(reason)}`)).toEqual({
    how,
    startedMs: Date.UTC(2026, 10, 29, 8, 0, 1, 250),
    endedMs: Date.UTC(2026, 10, 29, 8, 5, 0, 500),
  });
});

it('reads the last domain of a name, and that nothing is said of its end', () => {
  expect(parseDomainLog(`${started}${ended('shutdown')}${started}`)).toMatchObject({ how: 'unknown', endedMs: null });
  expect(parseDomainLog('char device redirected to /dev/pts/1\n')).toBeNull();
  expect(parseDomainLog('')).toBeNull();
});

it('takes no line of QEMU for one of libvirt', () => {
  expect(parseDomainLog(`${started}qemu: ${ended('shutdown')}`)).toMatchObject({ how: 'unknown' });
});

it('names the domain of an event', () => {
  const name = 'vm_0192f0c1-0000-7000-8000-000000000001';
  expect(domainOfEvent(`event 'lifecycle' for domain '${name}': Stopped Shutdown`)).toBe(name);
  expect(domainOfEvent(`event 'lifecycle' for domain ${name}: Suspended Paused`)).toBe(name);
  expect(domainOfEvent('events received: 3')).toBeNull();
});
