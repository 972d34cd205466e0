import { describe, expect, it } from 'vitest';
import type { DomainConfig } from '../../../../contracts/domain.ts';
import { openTemplates } from '../../../../drivers/libvirt/templates.ts';
import type { Hypervisor } from '../../../../drivers/ports/hypervisor.ts';
import { openLog } from '../../../../model/log.ts';
import { domainConfig as config } from './domain-config.ts';

const unused = () => Promise.reject(new Error('BUG: a key needs no domain'));
const templatesOf = (version: string) =>
  openTemplates({
    root: '/nowhere',
    virsh: { call: unused, prestart: () => undefined, close: () => undefined },
    hypervisor: { version: async () => version } as unknown as Hypervisor,
    log: openLog('test', 'silent'),
  });
const keyOf = (of: DomainConfig, version = 'QEMU 10'): Promise<string> => templatesOf(version).computeKey(of);

describe("a template's key", () => {
  // A template is the saved state of its devices: a machine with others can't start from it.
  it.each([
    ['machine version 1: no panic device', { panicDevice: false }],
    ['machine versions below 3: no port for sessions', { streamSocket: null }],
    ['machine versions below 4: aligned memory', { unalignedMemory: false }],
    ['more memory', { memoryMiB: 512 }],
    ['more processors', { vcpus: 3 }],
    ['one disk', { disks: config.disks.slice(0, 1) }],
  ] as [string, Partial<DomainConfig>][])('is another one with other devices: %s', async (_, other) => {
    expect(await keyOf({ ...config, ...other })).not.toBe(await keyOf(config));
  });

  it('differs between all machine versions', async () => {
    const versions: Partial<DomainConfig>[] = [
      { panicDevice: false, streamSocket: null, unalignedMemory: false },
      { streamSocket: null, unalignedMemory: false },
      { unalignedMemory: false },
      {},
    ];
    const keys = await Promise.all(versions.map((version) => keyOf({ ...config, ...version })));
    expect(new Set(keys).size).toBe(versions.length);
  });

  it('is another one under another hypervisor', async () => {
    expect(await keyOf(config, 'QEMU 11')).not.toBe(await keyOf(config));
  });

  it('is the same for the same machine, whichever VM has it', async () => {
    const other: DomainConfig = {
      ...config,
      name: 'vm_2',
      uuid: '01890a5d-ac96-774b-bcce-b302099a8058',
      disks: config.disks.map((disk) => ({ ...disk, source: { kind: 'file', path: '/elsewhere' }, backing: [] })),
      nic: { ...config.nic, mac: '52:54:00:00:00:02', tap: 'bt2', bridge: null },
      consoleLog: '/other/console.log',
      consoleSocket: '/other/tty',
      identitySocket: '/other/identity',
      streamSocket: '/other/stream',
    };
    expect(await keyOf(config)).toBe(await keyOf(config));
    expect(await keyOf(other)).toBe(await keyOf(config));
  });
});
