import { expect, test } from 'vitest';
import { filesOf } from '../../../infra/systemd/prepare-host.ts';
import { readConfig } from '../../../model/config.ts';

test('a machine that becomes a host keeps its own uuid and its confinement, and listens for libvirt on one address', () => {
  const files = filesOf({ address: '10.20.0.107', peers: ['10.20.0.106'], edges: [], uuid: null, confine: true });
  expect(files['/etc/libvirt/libvirtd.conf']).not.toContain('host_uuid');
  expect(files['/etc/libvirt/qemu.conf']).not.toContain('namespaces');
  // The empty line clears systemd's own value, which listens on every address.
  expect(files['/etc/systemd/system/libvirtd-tcp.socket.d/berth.conf']).toMatch(
    /ListenStream=\nListenStream=10\.20\.0\.107:16509\n/,
  );
  // Read-only: no guest may change the template that other guests start from.
  expect(files['/etc/apparmor.d/local/abstractions/libvirt-qemu']).toMatch(/templates.* r,$/m);
  expect(files['/etc/ganesha/ganesha.conf']).toContain('Clients = 10.20.0.106;');
});

test('peers are addresses, separated by commas; an empty list is a site of one host', () => {
  const read = (peers: string) =>
    readConfig(['hostSetup'], { BERTH_HOST_PEERS: peers, BERTH_HOST_UPLINK: 'eno1' }).hostSetup.BERTH_HOST_PEERS;
  expect(read('10.0.0.1, 10.0.0.2')).toEqual(['10.0.0.1', '10.0.0.2']);
  expect(read('')).toEqual([]);
  expect(() => read('host2')).toThrow('BERTH_HOST_PEERS');
});
