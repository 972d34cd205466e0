import { expect, it } from 'vitest';
import { parseDomainStats, readDomainStats } from '../../../../drivers/libvirt/domain-stats.ts';
import type { VirshAnswer } from '../../../../drivers/libvirt/virsh.ts';
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

/** virsh on a host of these domains: their counters, and a word of each call. */
function virshOf(domains: readonly string[], ending: readonly string[] = []) {
  const calls: string[] = [];
  const left = new Set(domains);
  const answers = (command: readonly string[]): VirshAnswer => {
    const [name, ...words] = command;
    const named = words.filter((word) => !word.startsWith('-'));
    const gone = named.find((word) => !left.has(word));
    if (gone !== undefined) return { ok: false, error: `error: failed to get domain '${gone}'` };
    if (name === 'domblkstat') return { ok: true, output: ' rd_req 7\n rd_bytes 300\n wr_req 3\n wr_bytes 40\n' };
    const field = words.includes('--block') ? '  block.0.rd.bytes=5\n  block.1.wr.bytes=6\n' : '  vcpu.0.time=1\n';
    return { ok: true, output: (named.length === 0 ? [...left] : named).map((one) => `Domain: '${one}'\n${field}`).join('\n') };
  };
  const call = async (command: readonly [string, ...string[]]): Promise<VirshAnswer> => {
    calls.push(command.filter((word) => !['--raw', '--nowait'].includes(word)).join(' '));
    const answer = answers(command);
    for (const name of ending) left.delete(name);
    return answer;
  };
  return { calls, virsh: { call, prestart: () => undefined, close: () => undefined } };
}

it('never has QEMU look at disks that are on another host, and counts what is read and written there all the same', async () => {
  const { calls, virsh } = virshOf(['here', 'away', 'too']);
  const found = await readDomainStats(virsh, async (name) => name !== 'away');
  expect(found.map(({ name, readBytes, writtenBytes }) => [name, readBytes, writtenBytes])).toEqual([
    ['here', 5, 6],
    ['away', 300, 40],
    ['too', 5, 6],
  ]);
  expect(calls).toEqual(['domstats --vcpu --balloon --interface --list-running', 'domblkstat away', 'domstats --block here too']);
});

it.each([
  ['on this host', true],
  ['on another host', false],
])('counts the others where a domain whose disks are %s ends meanwhile', async (_where, isHere) => {
  const { virsh } = virshOf(['one', 'ending', 'two'], ['ending']);
  const found = await readDomainStats(virsh, async () => isHere);
  const bytes = isHere ? 5 : 300;
  expect(found.map(({ name, readBytes }) => [name, readBytes])).toEqual([
    ['one', bytes],
    ['ending', 0],
    ['two', bytes],
  ]);
});
