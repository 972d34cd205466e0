import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sendIdentity } from '../../drivers/guest/identity-port.ts';
import { type Ended, Machine, machineIdOfImage } from './machine.ts';

let machine: Machine;
let bootMs: number;

beforeAll(async () => {
  const began = performance.now();
  machine = await Machine.start();
  await machine.untilAgent();
  bootMs = performance.now() - began;
});
afterAll(() => machine.stop());

const identity = (records: string): Promise<Ended> => machine.exec(['/usr/local/sbin/berth-identity'], records);
const applied: Ended = { exitCode: 0, stdout: 'ok\n', stderr: '' };

describe('the image', () => {
  test('answers by its agent within seconds, and then settles with no unit failed', async () => {
    console.log(`agent after ${(bootMs / 1000).toFixed(2)} s`);
    expect(bootMs).toBeLessThan(30_000);
    expect(await machine.shell('systemctl is-system-running --wait')).toBe('running');
    expect(await machine.shell('systemctl list-jobs')).toBe('No jobs running.');
  });

  test('has nothing that two machines must not share', async () => {
    const secrets = 'ls /etc/ssh/ssh_host_* /var/lib/systemd/random-seed 2>/dev/null || true';
    expect(await machine.shell(secrets)).toBe('');
    // systemd has created an id for this machine: the image's own content is read from its disk.
    expect(await machineIdOfImage()).toBe('');
  });

  test('has what a task expects: a writable root, standard programs, UTF-8', async () => {
    expect(await machine.shell('touch /root/x && command -v ip ping tar gzip awk sed ps >/dev/null && echo fine')).toBe('fine');
  });
});

describe('berth-identity', () => {
  test('gives a guest its identity in one call', async () => {
    const records = [
      `seed ${'5a'.repeat(64)}`,
      'time 1900000000.25',
      'host node0',
      'mid 0123456789abcdef0123456789abcdef',
      'mtu eth0 1400',
      'addr eth0 10.130.0.7/24 10.130.0.1',
      'mkdir /etc/berth/deep 0750',
      'file /etc/berth/deep/key 0600 9\nline\nmore',
      'file /etc/hosts 0644 22\n10.130.0.7 node0\nüü\n',
      'mount /dev/vdb /home/task',
      '',
    ].join('\n');
    expect(await identity(records)).toEqual(applied);
    expect(await machine.shell('hostname; cat /etc/hostname /etc/machine-id')).toBe(
      'node0\nnode0\n0123456789abcdef0123456789abcdef',
    );
    expect(await machine.shell('ip -4 -br address show eth0')).toMatch(/^eth0 +UP +10\.130\.0\.7\/24$/);
    expect(await machine.shell('ip route show default; cat /sys/class/net/eth0/mtu')).toBe(
      'default via 10.130.0.1 dev eth0 \n1400',
    );
    expect(Number(await machine.shell('date +%s')) - 1_900_000_000).toBeLessThan(60);
    expect(await machine.shell('stat -c %a /etc/berth/deep /etc/berth/deep/key; cat /etc/berth/deep/key')).toBe(
      '750\n600\nline\nmore',
    );
    expect(await machine.shell('cat /etc/hosts; ls -A /etc/berth/deep')).toBe('10.130.0.7 node0\nüü\nkey');
    expect(await machine.shell('findmnt -no SOURCE,FSTYPE /home/task; ls /home/task')).toMatch(/^\/dev\/vdb ext4\nlost\+found$/);
  });

  test('is taken also by a guest whose root file system is full: what changes lies in memory', async () => {
    expect(await identity('host node0\nfile /etc/hosts 0644 6\nbefore')).toEqual(applied);
    await machine.shell(
      "fallocate -l $(($(stat -f -c '%a * %S' /))) /fill; cat /dev/zero >/fill2 2>/dev/null; cat /dev/zero >/fill3 2>/dev/null; :",
    );
    expect(await machine.shell('echo x >/etc/probe 2>/dev/null && echo room || echo full')).toBe('full');
    for (const [line, name] of [
      ['10.0.0.1 one\n', 'node1'],
      ['10.0.0.2 two\n', 'node2'],
    ] as const) {
      expect(await identity(`host ${name}\nfile /etc/hosts 0644 ${line.length}\n${line}\n`)).toEqual(applied);
      expect(await machine.shell('hostname; cat /etc/hostname /etc/hosts')).toBe(`${name}\n${name}\n${line.trim()}`);
    }
    await machine.shell('rm -f /fill /fill2 /fill3 /etc/probe');
    expect(await identity('host node0\nfile /etc/hosts 0644 6\nafter\n\n')).toEqual(applied);
    expect(await machine.shell('cat /etc/hosts; grep -c /etc/hosts /proc/mounts || :')).toBe('after\n0');
  });

  test('may be repeated, and replaces the earlier identity', async () => {
    const records = 'host other\naddr eth0 10.131.2.3/16 10.131.0.1\nmount /dev/vdb /home/task ext4\n';
    expect(await identity(records)).toEqual(applied);
    expect(await identity(records)).toEqual(applied);
    expect(await machine.shell('hostname; ip -4 -br address show eth0; ip route')).toMatch(
      /^other\neth0 +UP +10\.131\.2\.3\/16 *\ndefault via 10\.131\.0\.1 dev eth0 *\n10\.131\.0\.0\/16 .*$/,
    );
    expect(await machine.shell('grep -c /home/task /proc/mounts')).toBe('1');
    expect(await identity('addr eth0 10.131.2.3/16 -\n')).toEqual(applied);
    expect(await machine.shell('ip route show default')).toBe('');
  });

  /** A guest that boots applies its records by itself, while its host sends them. */
  const sixAtOnce = (one: string): string =>
    `all=; for n in 1 2 3 4 5 6; do ${one} & all="$all $!"; done; for one in $all; do wait $one || exit 1; done`;

  test('several at once mount a disk once', async () => {
    const one = 'echo "mount /dev/vdb /home/task" | /usr/local/sbin/berth-identity >/dev/null';
    expect(await machine.shell(`umount /home/task; ${sixAtOnce(one)}; grep -c /home/task /proc/mounts`)).toBe('1');
  });

  test('several at once write each file whole', async () => {
    const files = Array.from({ length: 20 }, (_, n) => `file /tmp/turn/${n} 0644 3\\nab\\n`).join('\\n');
    const one = `printf '${files}\\n' | /usr/local/sbin/berth-identity >/dev/null`;
    const script = `mkdir -p /tmp/turn; ${sixAtOnce(one)}; ls -A /tmp/turn | wc -l; sort -u /tmp/turn/*`;
    expect(await machine.shell(script)).toBe('20\nab');
  });

  test('makes a process read its files again', async () => {
    const script = 'trap "echo told > /tmp/told; exit" HUP; echo $$ > /tmp/pid; while :; do sleep 0.05; done';
    await machine.shell(
      `(${script.replace('$$', "$(exec sh -c 'echo $PPID')")}) >/dev/null 2>&1 & while ! [ -s /tmp/pid ]; do sleep 0.05; done`,
    );
    expect(await identity('hup /tmp/pid\n')).toEqual(applied);
    expect(
      await machine.shell('n=0; while ! [ -s /tmp/told ] && [ $n -lt 100 ]; do sleep 0.05; n=$((n+1)); done; cat /tmp/told'),
    ).toBe('told');
  });

  const wait = async (records: string): Promise<Ended> => machine.exec(['/usr/local/sbin/berth-identity', 'wait'], records);
  const filled = ['/etc/hosts 0644', '/etc/ssh/key 0600'].map((file) => `file ${file} 0\n`).join('');
  const boot = '01234567-89ab-cdef-0123-456789abcdef';

  test('waits in a machine that becomes a template, until it receives its identity', async () => {
    await machine.shell('umount /home/task');
    expect(await wait(filled)).toEqual(applied);
    expect(await machine.shell('cat /etc/hostname /etc/machine-id /etc/hosts; ls /run/berth/adopting')).toBe(
      '/run/berth/adopting',
    );
    const records = Buffer.from(
      `seed ${'a5'.repeat(64)}\nhost sibling\nmid ${'f'.repeat(32)}\nboot ${boot}\nfile /etc/hosts 0644 8\n1.2.3.4\n\nfile /etc/ssh/key 0600 2\nk\n`,
    );
    // The second part may take a moment, and nothing of a task is started before.
    const start = machine.shell(
      '/usr/local/sbin/berth-job run /run/berth/late /home/task 9 1 99 "" sh -c "pwd; ls"; cat /run/berth/late/log',
    );
    await delay(300);
    expect(await machine.shell('ls /run/berth/late 2>/dev/null || true')).toBe('');
    const said = await sendIdentity(machine.identitySocket, records, Buffer.from('mount /dev/vdb /home/task\n'), 30_000);
    expect(said).toEqual({ hostname: 'sibling', machineId: 'f'.repeat(32) });
    expect(await start).toContain('/home/task\nlost+found');
    expect(
      await machine.shell('hostname; cat /etc/hostname /etc/machine-id /etc/hosts /etc/ssh/key; stat -c %a /etc/ssh/key'),
    ).toBe(`sibling\nsibling\n${'f'.repeat(32)}\n1.2.3.4\nk\n600`);
    expect(await machine.shell('cat /proc/sys/kernel/random/boot_id; ls /run/berth/adopting 2>/dev/null || echo adopted')).toBe(
      `${boot}\nadopted`,
    );
    // Afterwards it can be repeated in the usual way.
    expect(await identity('host again\n')).toEqual(applied);
    expect(await machine.shell('cat /etc/hostname')).toBe('again');
  });

  test('that waits refuses invalid records as a whole, and reports what it could not do', async () => {
    const apply = (records: string) =>
      sendIdentity(machine.identitySocket, Buffer.from(records), Buffer.from('mount /dev/vdb /x\n'), 30_000);
    for (const [records, complaint] of [
      ['host other\nhost -a\n', 'record 2 (host): -a is not a host name'],
      ['mac eth7 52:54:00:00:00:01\n', 'record 1 (mac): setting the hardware address: No such device'],
    ] as const) {
      expect(await wait(filled)).toEqual(applied);
      await expect(apply(records)).rejects.toThrow(complaint);
      expect(await machine.shell('cat /etc/hostname; grep -c " /x " /proc/mounts || true; rm /run/berth/adopting')).toBe('0');
    }
  });

  const invalid: [records: string, complaint: string][] = [
    ['nonsense x\n', 'record 1 (nonsense): no such record'],
    ['host a\nhost\n', 'record 2 (host): has 1 words'],
    ['host a b\n', 'record 1 (host): has 3 words'],
    ['host -a\n', 'record 1 (host): -a is not a host name'],
    ['host a/b\n', 'record 1 (host): a/b is not a host name'],
    [`host ${'a'.repeat(65)}\n`, 'is not a host name'],
    ['host a', 'record 1 (host a): has no end: the input is cut off'],
    ['host  a\n', 'record 1 (host): words are parted by one space'],
    ['mid 0123\n', 'record 1 (mid): expected 32 hexadecimal digits'],
    [`mid ${'g'.repeat(32)}\n`, 'record 1 (mid): not hexadecimal'],
    ['addr eth0 10.0.0.1 -\n', 'record 1 (addr): expected IP/PLEN'],
    ['addr eth0 10.0.0.256/24 -\n', 'record 1 (addr): 10.0.0.256 is not an IPv4 address'],
    ['addr eth0 10.0.0.1/33 -\n', 'record 1 (addr): 33 is not a number from 1 to 32 (base 10)'],
    ['addr eth0/../x 10.0.0.1/24 -\n', 'is not the name of a network device'],
    ['mtu eth0 67\n', 'record 1 (mtu): 67 is not a number from 68 to 65535 (base 10)'],
    ['time 12.\n', 'record 1 (time): a fraction has 1 to 9 digits'],
    ['time -1\n', 'record 1 (time): -1 is not a number'],
    ['seed 0\n', 'record 1 (seed): expected an even number of digits'],
    [`seed ${'00'.repeat(513)}\n`, 'record 1 (seed): expected an even number of digits'],
    ['file relative 0644 0\n', 'record 1 (file): relative is not an absolute path'],
    ['file /a/../b 0644 0\n', 'record 1 (file): /a/../b is not an absolute path'],
    ['file /tmp/x 0999 0\n', 'record 1 (file): 0999 is not a number from 0 to 4095 (base 8)'],
    ['file /tmp/x 0644 9\nshort\n', 'record 1 (file): announces more bytes than there are'],
    ['host a\nfile /tmp/x 0644 0\n\nmount vdb /x\n', 'record 4 (mount): vdb is not an absolute path'],
  ];
  test.each(invalid)('refuses %j as a whole', async (records, complaint) => {
    const before = await machine.shell('hostname; cat /etc/hostname');
    const { exitCode, stdout, stderr } = await identity(records);
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' });
    expect(stderr).toContain(complaint);
    expect(stderr).toMatch(/^berth-identity: [^\n]*\n$/);
    expect(await machine.shell('hostname; cat /etc/hostname')).toBe(before);
  });

  const impossible: [records: string, complaint: string][] = [
    ['addr eth7 10.0.0.1/24 -\n', 'record 1 (addr): setting the address: No such device'],
    ['addr eth0 10.131.2.3/16 192.0.2.1\n', 'record 1 (addr): adding the default route: Network is unreachable'],
    ['file /nowhere/x 0644 1\ny', 'record 1 (file): /nowhere/x: No such file or directory'],
    ['mkdir /etc/hostname/x 0755\n', 'record 1 (mkdir): /etc/hostname/x: Not a directory'],
    ['mount /dev/vdb /mnt btrfs\n', 'record 1 (mount): /dev/vdb:'],
    ['hup /tmp\n', 'record 1 (hup): /tmp holds no pid'],
  ];
  test.each(impossible)('reports what it could not do: %j', async (records, complaint) => {
    const { exitCode, stdout, stderr } = await identity(records);
    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: '' });
    expect(stderr).toContain(complaint);
  });
});

test('a machine whose disk is no root file system reports this on its console and powers itself off', async () => {
  const lost = await Machine.start('empty');
  try {
    await lost.untilOff(60_000);
    expect(await lost.console()).toContain("berth-init: can't mount /dev/vda: Invalid argument");
  } finally {
    await lost.stop();
  }
});
