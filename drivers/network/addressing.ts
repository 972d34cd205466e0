/** The hosts' network has an MTU of 1500 bytes at least; VXLAN takes 50 of them. */
export const guestMtu = 1450;

/** Locally administered, and the same on every host: a migrated guest finds its gateway at the same address. */
export const gatewayMac = '02:62:67:00:00:01';

/** An owner's bridge and VXLAN on a host. */
export const bridgeName = (vni: number): string => `bg${vni.toString(16)}`;
export const vxlanName = (vni: number): string => `vx${vni.toString(16)}`;

/** An address with the prefix length of the network that it is in, e.g. `10.128.8.2/24`. */
export const withPrefixLength = (address: string, cidr: string): string => `${address}/${cidr.slice(cidr.indexOf('/') + 1)}`;
