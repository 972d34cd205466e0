import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Host } from '../../infra/site/host.ts';
import { childrenOf, signal } from '../../infra/site/processes.ts';
import { askMove, type MigrationAnswer } from '../site/moves.ts';
import { onHost, type TestSite } from '../site/the-site.ts';

/** A migration that something befalls. */
export interface Struck {
  test: TestSite;
  task: string;
  vm: string;
  /** Where it runs, where it is to go, and where its disks are. */
  from: Host;
  to: Host;
  home: Host;
  /** The migration, once it was asked for. */
  asked: MigrationAnswer | null;
}

/** Returns what puts it right again. */
export type Fault = (struck: Struck) => Promise<() => Promise<void>>;

export interface Case {
  fault: Fault;
  /** `before`: it is so before the migration is asked for; `during`: it comes at a random moment. */
  when: 'before' | 'during';
  /** The VM's own process may be hit: then it may be lost, and has to be reported as that. */
  mayLose?: boolean;
  /** Its task is ended by this. */
  endsTask?: boolean;
  /** The VM has to be away from its home beforehand. */
  away?: boolean;
}

const nothing = async (): Promise<void> => undefined;

/** SIGKILL to a process that its site starts again. */
const killed = (name: (struck: Struck) => string): Fault => {
  return async (struck) => {
    const child = struck.test.site.child(name(struck));
    const restarts = child.restarts();
    child.kill('SIGKILL');
    return () => child.servesAgain(restarts, 90_000);
  };
};

/** Every virsh that a host's worker has: the one that migrates is among them. */
const virshKilled: Fault = async ({ test, from }) => {
  const worker = test.site.child(`${from.id}/worker`).pid();
  for (const pid of worker === null ? [] : childrenOf(worker)) {
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (name.trim() === 'virsh') signal(pid, 'SIGKILL');
  }
  return nothing;
};

const qemuKilled = (host: (struck: Struck) => Host): Fault => {
  return async (struck) => {
    const file = `/run/libvirt/qemu/${struck.vm}.pid`;
    await onHost(struck.test, host(struck).id, ['sh', '-c', `[ ! -e ${file} ] || kill -9 "$(cat ${file})" || true`]);
    return nothing;
  };
};

const partedFor = (ms: number, parts: (struck: Struck) => [Host, string]): Fault => {
  return async (struck) => {
    const [host, address] = parts(struck);
    const mend = await host.cutOff([address]);
    const healed = delay(ms).then(mend);
    return () => healed;
  };
};
/** Where the site's Temporal and repository are, for its hosts. */
const outside = ({ from }: Struck): string => from.address.replace(/\.\d+$/, '.1');

/** Whatever the target's worker writes goes to a file system without room; what is there can be read. */
const diskFull: Fault = async ({ test, to }) => {
  const [root, layer] = ['/var/lib/berth', '/run/berth/full'];
  const fill = [
    `mkdir -p ${layer}`,
    `mount -t tmpfs -o size=256k berth-full ${layer}`,
    `mkdir ${layer}/upper ${layer}/work`,
    `mount -t overlay -o lowerdir=${root},upperdir=${layer}/upper,workdir=${layer}/work berth-full ${root}`,
    // A use of a cached image is noted in its file: there is room for that on a full disk.
    `touch ${root}/images/*/image.json`,
    `head -c 1000000 /dev/zero > ${root}/full 2>/dev/null || true`,
  ];
  await onHost(test, to.id, ['sh', '-ec', fill.join('\n')]);
  return async () => {
    await onHost(test, to.id, ['sh', '-ec', `umount --lazy ${root}; umount --lazy ${layer}`]);
  };
};

/** What libvirtd starts may have no more memory than it has itself, and a little. */
const outOfMemory: Fault = async ({ test, to }) => {
  const daemon = test.site.child(`${to.id}/libvirtd`).pid();
  if (daemon === null) return nothing;
  const pages = Number((await readFile(`/proc/${daemon}/statm`, 'utf8')).split(' ')[0]);
  const limit = async (bytes: string): Promise<void> => {
    const { run } = await import('../../drivers/process.ts');
    await run(['prlimit', `--pid=${daemon}`, `--as=${bytes}`], { deadlineMs: 5000 });
  };
  await limit(`${pages * 4096 + 128 * 2 ** 20}:unlimited`);
  return () => limit('unlimited:unlimited');
};

/** The target's hypervisor can't make what the description asks for. */
const refusedThere: Fault = async ({ test, to }) => {
  const emulator = '/usr/bin/qemu-system-x86_64';
  await onHost(test, to.id, ['mount', '--bind', '/bin/false', emulator]);
  return async () => {
    await onHost(test, to.id, ['umount', emulator]);
  };
};

const sameName: Fault = async ({ test, to, vm }) => {
  const xml = `<domain type='qemu'><name>${vm}</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os></domain>`;
  const file = `/run/berth/${vm}.xml`;
  await onHost(test, to.id, ['sh', '-c', `printf %s "$0" > ${file}`, xml]);
  await onHost(test, to.id, ['virsh', '-q', 'define', file]);
  return async () => {
    await onHost(test, to.id, ['virsh', '-q', 'undefine', vm]);
  };
};

const aborted: Fault = async ({ test, asked }) => {
  await test.client.insist('DELETE', `/v1/migrations/${asked!.id}`);
  return nothing;
};

const askedTwice: Fault = async ({ test, vm }) => {
  const { status, body } = await askMove(test, vm);
  // The first one may be over already, and then this one is in its right.
  if (status !== 409 && status !== 202) throw new Error(`a second migration: ${status} ${JSON.stringify(body)}`);
  return nothing;
};

const cancelled: Fault = async ({ test, task }) => {
  await test.client.insist('DELETE', `/v1/tasks/${task}`);
  return nothing;
};

/** The table of what has to be survived. */
export const migrationCases: Record<string, Case> = {
  'kill virsh': { fault: virshKilled, when: 'during' },
  'kill source worker': { fault: killed(({ from }) => `${from.id}/worker`), when: 'during' },
  'kill target worker': { fault: killed(({ to }) => `${to.id}/worker`), when: 'during' },
  'kill control worker': { fault: killed(() => 'control'), when: 'during' },
  'kill Temporal': { fault: killed(() => 'temporal'), when: 'during' },
  'kill source libvirtd': { fault: killed(({ from }) => `${from.id}/libvirtd`), when: 'during' },
  'kill target libvirtd': { fault: killed(({ to }) => `${to.id}/libvirtd`), when: 'during' },
  'kill target QEMU': { fault: qemuKilled(({ to }) => to), when: 'during', mayLose: true },
  'kill source QEMU': { fault: qemuKilled(({ from }) => from), when: 'during', mayLose: true },
  'part source and target, 10 s': { fault: partedFor(10_000, ({ from, to }) => [from, to.address]), when: 'during' },
  'part source and target, 120 s': { fault: partedFor(120_000, ({ from, to }) => [from, to.address]), when: 'during' },
  'part target and Temporal, 10 s': { fault: partedFor(10_000, (struck) => [struck.to, outside(struck)]), when: 'during' },
  'part target and Temporal, 120 s': { fault: partedFor(120_000, (struck) => [struck.to, outside(struck)]), when: 'during' },
  'part source and Temporal, 10 s': { fault: partedFor(10_000, (struck) => [struck.from, outside(struck)]), when: 'during' },
  'part source and Temporal, 120 s': { fault: partedFor(120_000, (struck) => [struck.from, outside(struck)]), when: 'during' },
  'part home and target, 10 s': { fault: partedFor(10_000, ({ home, to }) => [home, to.address]), when: 'during', away: true },
  'part home and target, 120 s': { fault: partedFor(120_000, ({ home, to }) => [home, to.address]), when: 'during', away: true },
  'target disk full': { fault: diskFull, when: 'before' },
  'target out of memory': { fault: outOfMemory, when: 'before' },
  'target refuses': { fault: refusedThere, when: 'before' },
  'same name at target': { fault: sameName, when: 'before' },
  abort: { fault: aborted, when: 'during' },
  'asked twice': { fault: askedTwice, when: 'during' },
  'task cancelled': { fault: cancelled, when: 'during', endsTask: true },
  nothing: { fault: async () => nothing, when: 'during' },
};
