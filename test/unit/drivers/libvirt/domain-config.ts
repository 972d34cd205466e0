import type { DomainConfig } from '../../../../contracts/domain.ts';

/** A machine of the current version, with a disk at its home and one of its host. */
export const domainConfig: DomainConfig = {
  name: 'vm_1',
  uuid: '01890a5d-ac96-774b-bcce-b302099a8057',
  vcpus: 2,
  memoryMiB: 256,
  memory: { kind: 'own' },
  accelerator: 'qemu',
  kernel: '/k',
  initrd: '/i',
  cmdline: 'a="b" <c> & d',
  disks: [
    {
      target: 'vda',
      format: 'qcow2',
      source: { kind: 'nfs', host: '10.0.0.1', path: '/var/lib/berth/vms/x/disk.qcow2' },
      backing: [{ format: 'qcow2', source: { kind: 'file', path: '/var/lib/berth/images/y/disk.qcow2' } }],
    },
    { target: 'vdb', format: 'raw', source: { kind: 'file', path: '/data.raw' }, backing: [] },
  ],
  cdrom: null,
  nic: { mac: '52:54:00:00:00:01', tap: 'bt1', bridge: 'bg1', mtu: 1450 },
  consoleLog: '/console.log',
  consoleSocket: '/tty',
  identitySocket: '/identity',
  streamSocket: '/stream',
  onReboot: 'destroy',
  panicDevice: true,
  unalignedMemory: true,
};
