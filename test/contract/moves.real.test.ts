import { dirname, join } from 'node:path';
import { expect } from 'vitest';
import { newRecord } from '../../activities/host/vm-record.ts';
import { fullTest } from '../full-test.ts';
import { type MovesBench, movesContract } from './moves-suite.ts';
import { openRealHosts, type RealHost } from './real/bench.ts';
import { lostPagesIn, pageWriter } from './real/page-writer.ts';
import { vmOf } from './requests.ts';
import { codeOf } from './suite.ts';

/** More than the allowed downtime has time for, so that several scans for written pages are needed. */
const writtenPages = 1536;

const pageWriterAt = (host: RealHost): MovesBench['pageWriter'] => ({
  async start(domain) {
    const command = { execute: 'guest-exec', arguments: { path: '/usr/bin/perl', arg: ['-e', pageWriter(writtenPages)] } };
    await host.on(['virsh', '-q', 'qemu-agent-command', domain, JSON.stringify(command)]);
  },
  async lostPages(vm) {
    const { console } = await host.ports().store.paths(vm);
    return lostPagesIn(await host.on(['cat', console]));
  },
});

movesContract(
  'two real hosts',
  async () => {
    // So slow that a migration can be observed, and aborted, before its end.
    const { hosts, stop } = await openRealHosts(2, { BERTH_MIGRATION_MIB_PER_S: '40' });
    const benches = hosts.map((host): MovesBench => ({ ...host, address: host.host.address, pageWriter: pageWriterAt(host) }));
    return { hosts: benches as [MovesBench, MovesBench], stop };
  },
  120_000,
);

fullTest('a version that is damaged is refused and removed, and the next move transfers all', async () => {
  const { hosts, stop } = await openRealHosts(2);
  try {
    const [a, b] = hosts as [RealHost, RealHost];
    const vm = vmOf(a.image(), {});
    for (const host of [a, b]) await host.ports().store.writeDurably(newRecord(vm));
    const { folder, memory } = await a.ports().store.paths(vm.id);
    const kept = join(dirname(dirname(folder)), 'versions', vm.id, 'memory');
    const digestAt = async (host: RealHost): Promise<string> => (await host.on(['sha256sum', memory])).split(' ')[0]!;
    const carry = async (from: RealHost, to: RealHost): Promise<{ bytes: number }> => {
      const { chunks } = await to.ports().coldCopy.offerCachedChunks(vm.id);
      const pack = await from.ports().coldCopy.pack(vm.id, ['memory'], { address: to.host.address, chunks });
      await to.ports().coldCopy.unpack(vm.id, { address: from.host.address, bytes: pack.bytes });
      return pack;
    };
    await a.on(['sh', '-ec', `head -c 3000000 /dev/urandom > ${memory}`]);
    const digest = await digestAt(a);
    const whole = await carry(a, b);
    expect(await digestAt(b)).toBe(digest);
    await a.ports().coldCopy.keepPreviousVersion(vm.id, ['memory']);
    await a.ports().coldCopy.removeTransferFiles(vm.id);
    await a.on(['dd', 'if=/dev/urandom', `of=${kept}`, 'bs=1000', 'seek=1500', 'count=100', 'conv=notrunc', 'status=none']);
    expect(await codeOf(carry(b, a))).toBe('migration-refused');
    const again = await carry(b, a);
    expect(again.bytes).toBeGreaterThan(whole.bytes * 0.9);
    expect(await digestAt(a)).toBe(digest);
  } finally {
    await stop();
  }
});
