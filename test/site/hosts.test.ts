import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, readdir, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { run } from '../../drivers/host/run-process.ts';
import { type BareHosts, startBareHosts } from '../../infra/site/bare-hosts.ts';
import { openHome } from '../../infra/site/home.ts';
import { nsenterArgv } from '../../infra/site/host/host.ts';
import { processesOfSite } from '../../infra/site/processes.ts';
import { until } from '../../infra/site/until.ts';

const deadlineMs = 20_000;
const entry = join(import.meta.dirname, '../../infra/site/bare-hosts.ts');

/** What a site could leave on the machine: its processes, its interfaces, its rules, its mounts. */
async function traces(home: string): Promise<string[]> {
  const { path, tag } = openHome(home);
  const links = await run(['ip', '-oneline', 'link'], { deadlineMs });
  const rules = await run(['iptables-save'], { deadlineMs });
  return [
    ...processesOfSite(path).map((pid) => `process ${pid}`),
    ...links.split('\n').filter((line) => line.includes(`-${tag}`)),
    ...rules.split('\n').filter((line) => line.includes(`berth site ${tag}`)),
    ...readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(path)),
  ];
}

/** An outside host name that this machine certainly resolves: the one its packages come from. */
const outside = async (): Promise<string> => {
  const archives = await run(['apt-get', 'indextargets', '--format', '$(REPO_URI)'], { deadlineMs });
  const [first] = archives.split('\n');
  if (!first) throw new Error('this machine has no package archive to reach: run apt-get update');
  return first;
};

/** Whether the outside answers: a host has to reach no more than the machine on which it runs. */
const reaches = async (on: (argv: [string, ...string[]]) => Promise<string>): Promise<boolean> => {
  const argv = ['curl', '--silent', '--max-time', '10', '--output', '/dev/null', await outside()] as const;
  return on([...argv]).then(
    () => true,
    () => false,
  );
};

const newHome = (): Promise<string> => mkdtemp(join(tmpdir(), 'berth-hosts-'));

describe('hosts in namespaces', () => {
  let home: string;
  let site: BareHosts;
  const on = (host: number, argv: readonly string[]): Promise<string> =>
    run(nsenterArgv(site.hosts[host]!.pid()!, argv), { deadlineMs });

  beforeAll(async () => {
    home = await newHome();
    site = await startBareHosts(home, 2, () => undefined);
  });
  afterAll(async () => {
    await site.stop();
    expect(await traces(home)).toEqual([]);
    await rm(home, { recursive: true });
  });

  test('each has its own name, address, disk and hypervisor, and reaches the outside', async () => {
    for (const [index, host] of site.hosts.entries()) {
      expect((await on(index, ['hostname'])).trim()).toBe(host.id);
      expect(await on(index, ['ip', '-brief', 'address', 'show', 'eth0'])).toContain(host.address);
      await on(index, ['sh', '-c', 'echo "$1" > /var/lib/berth/name', 'sh', host.id]);
      expect(readFileSync(join(home, 'hosts', host.id, 'name'), 'utf8').trim()).toBe(host.id);
      expect(await reaches((argv) => on(index, argv))).toBe(await reaches((argv) => run(argv, { deadlineMs })));
    }
    const uuids = await Promise.all([0, 1].map((host) => on(host, ['grep', 'host_uuid', '/etc/libvirt/libvirtd.conf'])));
    expect(new Set(uuids).size).toBe(2);
  });

  test('its peers read its files, also in a folder that was removed and created again', async () => {
    const folder = '/var/lib/berth/vms/anew';
    const write = (text: string) => on(0, ['sh', '-ec', `mkdir -p ${folder}; echo ${text} > ${folder}/disk`]);
    const read = () => on(1, ['timeout', '15', 'nfs-cat', `nfs://${site.hosts[0]!.address}${folder}/disk`]);
    await write('first');
    expect(await read()).toBe('first\n');
    await on(0, ['rm', '-r', folder]);
    await write('second');
    expect(await read()).toBe('second\n');
    await on(0, ['rm', '-r', folder]);
    await expect(read()).rejects.toThrow();
    await write('third');
    expect(await read()).toBe('third\n');
    await on(0, ['rm', '-r', folder]);
  });

  test('a host can read neither the site’s keys nor another host’s disk', async () => {
    expect(await on(0, ['ls', '-A', await realpath(home)])).toBe('');
  });

  test('a peer reads a host’s disk over NFS', async () => {
    await writeFile(join(home, 'hosts', 'host2', 'shared'), 'for peers');
    expect(await on(0, ['nfs-ls', `nfs://${site.hosts[1]!.address}/var/lib/berth`])).toContain('shared');
  });

  test('a machine that is no peer is refused, by the firewall and by the NFS server after it', async () => {
    const address = site.hosts[1]!.address;
    const asMachine = ['nfs-ls', `nfs://${address}/var/lib/berth`] as const;
    await expect(run([...asMachine], { deadlineMs: 3000 })).rejects.toThrow('ended after 3000 ms');
    const rule = ['-s', `${address.replace(/\d+$/, '1')}`, '-j', 'ACCEPT'];
    await on(1, ['iptables', '--wait', '-I', 'BERTH-HOST', '1', ...rule]);
    try {
      await expect(run([...asMachine], { deadlineMs })).rejects.toThrow(/[Aa]ccess denied|ACCES|PERM|permission/i);
    } finally {
      await on(1, ['iptables', '--wait', '-D', 'BERTH-HOST', ...rule]);
    }
  });

  test.each(['rpcbind', 'virtlogd', 'libvirtd', 'ganesha'])('%s is restarted when it is killed', async (name) => {
    const child = site.hosts[0]!.child(name);
    const before = child.restarts();
    const pid = child.pid();
    child.kill('SIGKILL');
    await child.untilReadyAgain(before, deadlineMs);
    expect(child.pid()).not.toBe(pid);
    // NFS included: a client of a new portmapper must find the server.
    await until('host1 to serve all', deadlineMs, async () => {
      await on(1, ['nfs-ls', `nfs://${site.hosts[0]!.address}/var/lib/berth`]);
      await on(0, ['virsh', '-c', 'qemu:///system', 'version']);
      return true;
    });
  });

  test('a host that loses its power stops completely, and comes back with its disk', async () => {
    const host = site.hosts[0]!;
    const boot = await on(0, ['cat', '/proc/sys/kernel/random/boot_id']);
    const pid = host.pid()!;
    await writeFile(join(home, 'hosts', host.id, 'kept'), '');
    host.crash();
    await until('the host to be another', deadlineMs, async () => {
      if (host.pid() === null || host.pid() === pid) return false;
      await on(0, ['virsh', '-c', 'qemu:///system', 'version']);
      return host.child('ganesha').pid() !== null;
    });
    await host.child('ganesha').ready;
    expect(await on(0, ['ls', '/var/lib/berth'])).toContain('kept');
    expect(await on(0, ['cat', '/proc/sys/kernel/random/boot_id'])).not.toBe(boot);
  });

  test.each([
    ['each other', (peer: string) => [peer]],
    ['everything', () => undefined],
  ])('hosts that are cut off from %s don’t reach each other until that is mended', async (_, from) => {
    const peer = site.hosts[1]!.address;
    const readPeer = (): Promise<string> =>
      run(nsenterArgv(site.hosts[0]!.pid()!, ['nfs-ls', `nfs://${peer}/var/lib/berth`]), { deadlineMs: 2000 });
    await readPeer();
    const mend = await site.hosts[0]!.partition(from(peer));
    await expect(readPeer()).rejects.toThrow(/ended after|exit/);
    await mend();
    await until('the peer to be reached again', deadlineMs, () => readPeer().then(() => true));
  });
});

describe('a supervisor', () => {
  const homes: string[] = [];
  const processes: ChildProcess[] = [];
  async function start(home: string): Promise<ChildProcess> {
    const child = spawn(process.execPath, [entry], {
      env: { ...process.env, BERTH_HOME: home, BERTH_HOSTS: '1' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    processes.push(child);
    let printed = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      printed += chunk.toString();
    });
    await until('hosts to be ready', 60_000, () => printed.includes('ready;') || child.exitCode !== null);
    if (child.exitCode !== null) throw new Error(printed);
    return child;
  }
  const home = async (): Promise<string> => {
    const made = await newHome();
    homes.push(made);
    return made;
  };
  async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  afterAll(async () => {
    for (const child of processes) if (child.exitCode === null && child.signalCode === null) await end(child, 'SIGTERM');
    for (const made of homes) await rm(made, { recursive: true });
  });

  test.each(['SIGTERM', 'SIGINT'] as const)('that gets %s leaves nothing', async (signal) => {
    const path = await home();
    await end(await start(path), signal);
    expect(await traces(path)).toEqual([]);
  });

  test('that is killed takes every process with it, and the next start removes the rest', async () => {
    const path = await home();
    const first = await start(path);
    await end(first, 'SIGKILL');
    await until('all of its processes to be gone', 5000, async () => processesOfSite(await realpath(path)).length === 0);
    const second = await start(path);
    expect((await readdir(join(path, 'hosts'))).sort()).toEqual(['host1', 'host1.pid']);
    await end(second, 'SIGTERM');
    expect(await traces(path)).toEqual([]);
  });

  test('runs next to one with another home, and not next to one with the same', async () => {
    const [one, other] = [await home(), await home()];
    const first = await start(one);
    const second = await start(other);
    await expect(start(one)).rejects.toThrow(`in use by process ${first.pid}`);
    await end(first, 'SIGTERM');
    await run(['ip', 'link', 'show', 'type', 'bridge'], { deadlineMs });
    expect((await traces(other)).some((trace) => trace.startsWith('process'))).toBe(true);
    await end(second, 'SIGTERM');
    expect(await traces(other)).toEqual([]);
  });
});
