import { describe, expect, it } from 'vitest';
import { parseCopyJob, parseSources } from '../../../../drivers/libvirt/disk-mover.ts';

describe('virsh’s output about a block copy', () => {
  it('is nothing where there is no job', () => expect(parseCopyJob('\n')).toBeNull());

  it('is ready when all is copied, and not when nothing was counted yet', () => {
    const said = (cur: number, end: number) => parseCopyJob(` type=Copy\n bandwidth=0\n cur=${cur}\n end=${end}\n`);
    expect(said(1024, 4096)).toEqual({ copiedBytes: 1024, totalBytes: 4096, ready: false });
    expect(said(4096, 4096)).toMatchObject({ ready: true });
    expect(said(0, 0)).toMatchObject({ ready: false });
  });
});

it('a domain’s disks are found where it has opened them: a file, or a path of another host', () => {
  const xml = `<domain><devices>
    <disk type='network' device='disk'><source protocol='nfs' name='/var/lib/berth/vms/x/disk.qcow2' index='2'><host name='10.0.0.1'/><identity user='0' group='0'/></source>
      <backingStore type='file'><format type='qcow2'/><source file='/var/lib/berth/images/i/disk.qcow2'/><backingStore/></backingStore><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><source file='/var/lib/berth/vms/x/data.raw' index='1'/><target dev='vdb' bus='virtio'/></disk>
  </devices></domain>`;
  expect([...parseSources(xml)]).toEqual([
    ['vda', { kind: 'nfs', host: '10.0.0.1', path: '/var/lib/berth/vms/x/disk.qcow2' }],
    ['vdb', { kind: 'file', path: '/var/lib/berth/vms/x/data.raw' }],
  ]);
});
