/** Names that every guest resolves to itself, by /etc/hosts or nss-myhostname. */
const loopbackNames = new Set(['localhost', 'localdomain', 'localhost4', 'localhost6', 'ip6-localhost', 'ip6-loopback']);

/**
 * Why a DNS label is no host name; null: it is one. A number, in decimal, octal or hexadecimal, is an IPv4 address to
 * inet_aton(3), and so to most programs: `ping 123` goes to 0.0.0.123.
 */
export function unusableHostName(name: string): string | null {
  if (loopbackNames.has(name)) return 'is the guest itself';
  if (/^([0-9]+|0x[0-9a-f]*)$/.test(name)) return 'is a number, which programs take for an IPv4 address';
  return null;
}
