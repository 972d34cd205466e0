import { expect, it } from 'vitest';
import { parseDomainStats } from '../../../../drivers/libvirt/domain-stats.ts';
import { domainStatsText } from '../../../fuzz/targets/counters.ts';

it('sums the counters of vCPUs, disks and interfaces; a domain that can say nothing now is left out', () => {
  expect(parseDomainStats(domainStatsText)).toEqual([
    {
      name: 'vm_01h2xcejqtf2nbrexx3vqjhp41',
      cpuNs: 5_000_000_000,
      delayNs: 130_000_000,
      memoryMiB: 192,
      readBytes: 3 * 2 ** 20,
      writtenBytes: 2 ** 20,
      receivedBytes: 2 ** 20,
      sentBytes: 2 ** 19,
    },
  ]);
  expect(parseDomainStats('\n')).toEqual([]);
});

it("takes a guest's own word about its memory before that of its process", () => {
  const reported = domainStatsText.replace('balloon.last-update=0', 'balloon.available=240000\n  balloon.usable=137600');
  expect(parseDomainStats(reported)[0]?.memoryMiB).toBe(100);
});

it.each([
  ['a field before any domain', '  vcpu.0.time=1\n'],
  ['a line that is none', `${domainStatsText}error: something\n`],
  ['a counter that is no number', domainStatsText.replace('vcpu.0.time=4210000000', 'vcpu.0.time=-1')],
  ['a counter that is too long', domainStatsText.replace('vcpu.0.time=4210000000', `vcpu.0.time=${'9'.repeat(21)}`)],
  ['a name with a quote', "Domain: 'a'b'\n"],
  ['a line without end', `${domainStatsText}  block.9.path=${'x'.repeat(10_000)}\n`],
])('refuses %s', (_what, text) => {
  expect(() => parseDomainStats(text)).toThrow(expect.objectContaining({ code: 'hypervisor' }));
});
