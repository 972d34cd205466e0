import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { sshKeyProblem } from '../../../../model/input/ssh-key.ts';
import { StoredVmRequest, VmRequest } from '../../../../model/vm-request.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-keys-'));
afterAll(() => rmSync(folder, { recursive: true }));
const keygen = (name: string, ...options: string[]): string => {
  execFileSync('ssh-keygen', ['-q', '-N', '', '-C', 'ann@example', '-f', join(folder, name), ...options]);
  return readFileSync(join(folder, `${name}.pub`), 'utf8').trim();
};
const ed25519 = keygen('ed25519', '-t', 'ed25519');
const field = (content: string | Buffer): Buffer => {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(content.length);
  return Buffer.concat([length, Buffer.from(content)]);
};
const keyOf = (type: string, ...fields: (string | Buffer)[]): string =>
  `${type} ${Buffer.concat([type, ...fields].map(field)).toString('base64')} ann@example`;
const point = (bytes: number): Buffer => Buffer.concat([Buffer.of(4), Buffer.alloc(bytes - 1, 7)]);

/** The pointers of the fields that are refused. */
function refused(more: object): string[] {
  const parsed = VmRequest.safeParse({ name: 'web', image: 'debian-12', ...more });
  return parsed.success ? [] : parsed.error.issues.map(({ path }) => path.join('/'));
}

describe("a VM's name", () => {
  it.each(['123', '0', '0x7f000001', '0x', '0177', 'localhost', 'localdomain', 'ip6-loopback'])('is not %s', (name) => {
    expect(refused({ name })).toEqual(['name']);
  });
  it.each(['web', 'a', '1a', '123-4', 'x0', 'local', '0xg'])('may be %s', (name) => {
    expect(refused({ name })).toEqual([]);
  });
});

describe("a VM's user", () => {
  const user = (name: string) => ({ user: { name, sshKey: ed25519 } });
  it.each(['staff', 'backup', 'sudo', 'www-data', 'nogroup', 'sshd', 'systemd-network', '_apt', 'kvm'])('is not %s', (name) => {
    expect(refused(user(name))).toEqual(['user/name']);
  });
  it.each(['ann', 'root', 'deploy', 'backup2', 'my_user'])('may be %s', (name) => {
    expect(refused(user(name))).toEqual([]);
  });
});

describe("a VM's file", () => {
  const file = (path: string, mode?: string) => ({ files: [{ path, file: 'file_1', ...(mode !== undefined && { mode }) }] });
  it.each(['/etc', '/tmp', '/usr/bin', '/home/task', '/var/lib', '/proc/sysrq-trigger', '/dev/vda', '/sys/x', '/run/berth/x'])(
    'is not put at %s',
    (path) => {
      expect(refused(file(path))).toEqual(['files/0/path']);
    },
  );
  it.each(['/etc/app.conf', '/tmp/x', '/home/task/x', '/device', '/run/app/x'])('may be put at %s', (path) => {
    expect(refused(file(path))).toEqual([]);
  });
  it.each(['4755', '1777', '0', '888', '00644', 'rw-r--r--'])('has no mode %s', (mode) => {
    expect(refused(file('/opt/tool', mode))).toEqual(['files/0/mode']);
  });
  it('is no folder of another one', () => {
    const files = ['/opt/a/b', '/opt/c', '/opt/a'].map((path) => ({ path, file: 'file_1' }));
    expect(refused({ files })).toEqual(['files/2/path']);
  });
});

describe('a key for ssh', () => {
  it.each([
    ['ed25519', ['-t', 'ed25519']],
    ['rsa-1024', ['-t', 'rsa', '-b', '1024']],
    ['rsa-4096', ['-t', 'rsa', '-b', '4096']],
    ['ecdsa-256', ['-t', 'ecdsa', '-b', '256']],
    ['ecdsa-384', ['-t', 'ecdsa', '-b', '384']],
    ['ecdsa-521', ['-t', 'ecdsa', '-b', '521']],
  ])('of ssh-keygen is taken: %s', (name, options) => {
    expect(sshKeyProblem(keygen(`made-${name}`, ...options))).toBeNull();
  });

  it.each([
    ['sk-ssh-ed25519@openssh.com', keyOf('sk-ssh-ed25519@openssh.com', Buffer.alloc(32, 7), 'ssh:')],
    ['sk-ecdsa-sha2-nistp256@openssh.com', keyOf('sk-ecdsa-sha2-nistp256@openssh.com', 'nistp256', point(65), 'ssh:')],
  ])('of a security key is taken: %s', (_, line) => {
    expect(sshKeyProblem(line)).toBeNull();
    expect(refused({ user: { name: 'ann', sshKey: line } })).toEqual([]);
  });

  it.each([
    ['is a word', 'ssh-ed25519 hello'],
    ['says another type inside', `ssh-rsa ${ed25519.split(' ')[1]}`],
    ['is cut off', ed25519.replace(/.{8} ann/, ' ann')],
    ['is too long', keyOf('ssh-ed25519', Buffer.alloc(32, 7), 'more')],
    ['has a short ed25519 point', keyOf('ssh-ed25519', Buffer.alloc(31, 7))],
    ['has 768 bits of RSA', keyOf('ssh-rsa', Buffer.of(1, 0, 1), Buffer.alloc(96, 0x7f))],
    ['has a compressed point', keyOf('ecdsa-sha2-nistp256', 'nistp256', Buffer.alloc(33, 2))],
    ['has the curve of another type', keyOf('ecdsa-sha2-nistp256', 'nistp384', point(97))],
    ['has a security key without application', keyOf('sk-ssh-ed25519@openssh.com', Buffer.alloc(32, 7))],
    ['is of DSA, which sshd takes no more', keyOf('ssh-dss', 'x')],
    ['is a certificate', keyOf('ssh-ed25519-cert-v01@openssh.com', 'x')],
    ['has options', `command="sh" ${ed25519}`],
    ['is two lines', `${ed25519}\n${ed25519}`],
    ['is base64 with a stray bit', 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB=='],
  ])('that %s is refused', (_, line) => {
    expect(sshKeyProblem(line)).not.toBeNull();
    expect(refused({ user: { name: 'ann', sshKey: line } })).toEqual(['user/sshKey']);
  });
});

it('a request that an earlier version has taken is still read from the ledger', () => {
  const files = [{ path: '/etc', file: 'file_1' }];
  const old = { name: '123', image: 'debian-12', user: { name: 'staff', sshKey: 'ssh-ed25519 hello' }, files };
  expect(StoredVmRequest.safeParse(old).success).toBe(true);
});
