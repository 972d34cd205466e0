import { withPrefixLength } from '../network/addressing.ts';
import type { GuestIdentity } from '../ports/guest.ts';

/**
 * What cloud-init's NoCloud source reads at the first boot of a foreign image
 * (https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html): the guest's name and its network. The
 * rest is set through the agent, as in every guest; where the image has none, it is installed from its distribution. YAML
 * is a superset of JSON, so that JSON's quoting is enough.
 */
export function cloudSeed(identity: GuestIdentity, nameservers: string[]): Record<string, string> {
  const { hostname, machineId, mac, address, cidr, gateway } = identity;
  const card = {
    match: { macaddress: mac },
    addresses: [withPrefixLength(address, cidr)],
    routes: [{ to: '0.0.0.0/0', via: gateway }],
    nameservers: { addresses: nameservers },
  };
  const user = { hostname, preserve_hostname: false, ssh_pwauth: false, runcmd: [['sh', '-c', ensureAgent]] };
  return {
    'meta-data': `${JSON.stringify({ 'instance-id': machineId, 'local-hostname': hostname })}\n`,
    'user-data': `#cloud-config\n${JSON.stringify(user)}\n`,
    'network-config': `${JSON.stringify({ version: 2, ethernets: { berth0: card } })}\n`,
  };
}

const ensureAgent = `command -v qemu-ga >/dev/null || {
  if command -v apt-get >/dev/null; then apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install qemu-guest-agent
  elif command -v dnf >/dev/null; then dnf -q -y install qemu-guest-agent
  elif command -v apk >/dev/null; then apk add qemu-guest-agent; fi
}
systemctl start qemu-guest-agent || :`;
