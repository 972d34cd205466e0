import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { run } from '../../drivers/host/run-process.ts';
import { readConfig } from '../../model/config.ts';
import {
  ganeshaConf,
  type HostConfig,
  hostPorts,
  hostRules,
  libvirtdConf,
  qemuConf,
  virtlogdConf,
} from '../site/host/host-config.ts';

/** The files by which a machine becomes a host. Berth owns them completely and replaces any other content. */
export function filesOf(host: HostConfig): Record<string, string> {
  return {
    '/etc/libvirt/libvirtd.conf': libvirtdConf(host),
    '/etc/libvirt/qemu.conf': qemuConf(host),
    '/etc/libvirt/virtlogd.conf': virtlogdConf(),
    '/etc/ganesha/ganesha.conf': ganeshaConf(host),
    // libvirt's AppArmor profiles for QEMU cover a domain's devices, but not its memory and monitor
    // (drivers/libvirt/domain-xml.ts).
    '/etc/apparmor.d/local/abstractions/libvirt-qemu': [
      '/var/lib/berth/images/*/templates/*/{memory,prelude} r,',
      '/var/lib/berth/vms/*/template.memory rw,',
      '',
    ].join('\n'),
    // systemd listens for libvirtd, on this one address.
    '/etc/systemd/system/libvirtd-tcp.socket.d/berth.conf': [
      '[Socket]',
      'ListenStream=',
      `ListenStream=${host.address}:${hostPorts.libvirt}`,
      'FreeBind=yes',
      '',
    ].join('\n'),
  };
}

async function replaceChanged(path: string, text: string): Promise<boolean> {
  const found = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return null;
  });
  if (found === text) return false;
  await mkdir(dirname(path), { recursive: true });
  await writeFile(`${path}.berth`, text, { flush: true });
  await rename(`${path}.berth`, path);
  return true;
}

/** Replaces all of the rules; INPUT jumps to them once, before the rules that were there. */
async function applyRules(host: HostConfig, uplink: string, open: readonly number[]): Promise<void> {
  const iptables = (...argv: string[]): Promise<string> => run(['iptables', '--wait', '10', ...argv], { deadlineMs: 15_000 });
  await run(['iptables-restore', '--wait', '10', '--noflush'], { deadlineMs: 15_000, input: hostRules(host, uplink, open) });
  const found = (await iptables('--list-rules', 'INPUT')).split('\n');
  if (!found.includes('-A INPUT -j BERTH-HOST')) await iptables('-I', 'INPUT', '1', '-j', 'BERTH-HOST');
}

if (import.meta.main) {
  const { host, hostSetup } = readConfig(['host', 'hostSetup'], process.env);
  const config: HostConfig = {
    address: host.BERTH_HOST_ADDRESS,
    peers: hostSetup.BERTH_HOST_PEERS,
    edges: hostSetup.BERTH_HOST_EDGES,
    uuid: null,
    confine: true,
  };
  await applyRules(config, hostSetup.BERTH_HOST_UPLINK, hostSetup.BERTH_HOST_OPEN_PORTS);
  const changed: string[] = [];
  for (const [path, text] of Object.entries(filesOf(config))) if (await replaceChanged(path, text)) changed.push(path);
  if (changed.length > 0) await run(['systemctl', 'daemon-reload'], { deadlineMs: 60_000 });
  console.log(
    changed.length === 0 ? 'nothing changed' : `written: ${changed.join(', ')}; restart what reads them (docs/operations.md)`,
  );
}
