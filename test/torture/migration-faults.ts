import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Host } from '../../infra/site/host/host.ts';
import { childrenOf, signal } from '../../infra/site/processes.ts';
import { askMove, type MigrationAnswer, type MoveOrder } from '../site/moves.ts';
import { type Subject, vmOf, vmUntil } from '../site/subjects.ts';
import { onHost, type TestSite } from '../site/the-site.ts';

/** A migration under a fault. */
export interface Struck {
  test: TestSite;
  subject: Subject;
  vm: string;
  /** Where it runs, where it has to move, and where its disks are. */
  from: Host;
  to: Host;
  home: Host;
  /** The options of its move. */
  way: MoveOrder;
  /** The migration, once it was requested. */
  requested: MigrationAnswer | null;
}

/** Injects the fault, and returns the function that repairs it. */
export type Fault = (struck: Struck) => Promise<() => Promise<void>>;

export interface Case {
  fault: Fault;
  /**
   * `before`: the fault exists before the migration is requested, and until it has ended; `during`: it comes at a random
   * moment after; `first`: the migration, which may be refused, comes at a random moment after it.
   */
  when: 'before' | 'during' | 'first';
  /** How long the run waits for the fault to take its course, in seconds. */
  lasts?: number;
  /** The case needs a VM that belongs to no task. */
  alone?: boolean;
  /** The VM's own process may be hit: then it may be lost, and has to be reported as that. */
  mayLose?: boolean;
  /** The fault ends the VM's task. */
  endsTask?: boolean;
  /** The VM has to be away from its home beforehand. */
  away?: boolean;
}

const nothing = async (): Promise<void> => undefined;

/** SIGKILL to a process that its site restarts. */
const killed = (name: (struck: Struck) => string): Fault => {
  return async (struck) => {
    const child = struck.test.site.child(name(struck));
    const restarts = child.restarts();
    child.kill('SIGKILL');
    return () => child.untilReadyAgain(restarts, 90_000);
  };
};

/** Every virsh of a host's worker: the one that migrates is among them. */
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
    const mend = await host.partition([address]);
    const healed = delay(ms).then(mend);
    return () => healed;
  };
};
/** The addresses of the site's Temporal and repository, for its hosts. */
const outside = ({ from }: Struck): string => from.address.replace(/\.\d+$/, '.1');

/** All writes of the target's worker go to a full file system; existing files can be read. */
const diskFull: Fault = async ({ test, to }) => {
  const [root, layer] = ['/var/lib/berth', '/run/berth/full'];
  const fill = [
    `mkdir -p ${layer}`,
    `mount -t tmpfs -o size=256k berth-full ${layer}`,
    `mkdir ${layer}/upper ${layer}/work`,
    `mount -t overlay -o lowerdir=${root},upperdir=${layer}/upper,workdir=${layer}/work berth-full ${root}`,
    // A use of a cached image is recorded in its file, which has space for that on a full disk.
    `touch ${root}/images/*/image.json`,
    `head -c 1000000 /dev/zero > ${root}/full 2>/dev/null || true`,
  ];
  await onHost(test, to.id, ['sh', '-ec', fill.join('\n')]);
  return async () => {
    await onHost(test, to.id, ['sh', '-ec', `umount --lazy ${root}; umount --lazy ${layer}`]);
  };
};

/** The children of libvirtd may have no more memory than it has itself, and a little. */
const outOfMemory: Fault = async ({ test, to }) => {
  const daemon = test.site.child(`${to.id}/libvirtd`).pid();
  if (daemon === null) return nothing;
  const pages = Number((await readFile(`/proc/${daemon}/statm`, 'utf8')).split(' ')[0]);
  const limit = async (bytes: string): Promise<void> => {
    const { run } = await import('../../drivers/host/run-process.ts');
    await run(['prlimit', `--pid=${daemon}`, `--as=${bytes}`], { deadlineMs: 5000 });
  };
  await limit(`${pages * 4096 + 128 * 2 ** 20}:unlimited`);
  return () => limit('unlimited:unlimited');
};

/** The target's hypervisor can't create what the description requires. */
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

const aborted: Fault = async ({ test, requested }) => {
  await test.client.callWithRetry('DELETE', `/v1/migrations/${requested!.id}`);
  return nothing;
};

const requestedTwice: Fault = async ({ test, vm }) => {
  const { status, body } = await askMove(test, vm);
  // The first one may have ended already, and then this one is permitted.
  if (status !== 409 && status !== 202) throw new Error(`a second migration: ${status} ${JSON.stringify(body)}`);
  return nothing;
};

const cancelled: Fault = async ({ test, subject }) => {
  await test.client.callWithRetry('DELETE', `/v1/tasks/${subject.task}`);
  return nothing;
};

/** Both are sent before either is answered: one is accepted. */
const requestedAtOnce: Fault = async ({ test, vm, way }) => {
  const answers = await Promise.all([askMove(test, vm, way), askMove(test, vm, way)]);
  const statuses = answers.map(({ status }) => status).sort();
  if (`${statuses}` !== '202,409') throw new Error(`two migrations at once: ${JSON.stringify(answers)}`);
  return nothing;
};

/** Its host is emptied; afterwards it accepts VMs again. */
const drained: Fault = async ({ test, from }) => {
  const order = { deadline: new Date(Date.now() + 120_000).toISOString(), strategy: 'parallel' };
  const headers = { 'idempotency-key': crypto.randomUUID() };
  const requested = await test.operator.callWithRetry<{ id: string; state: string }>(
    'POST',
    `/v1/hosts/${from.id}/drains`,
    order,
    headers,
  );
  if (requested.status !== 202) throw new Error(`a drain: ${requested.status} ${JSON.stringify(requested.body)}`);
  const { id } = requested.body;
  return async () => {
    const stateOf = async () => (await test.operator.callWithRetry<{ state: string }>('GET', `/v1/drains/${id}`)).body.state;
    let state = await stateOf();
    for (const untilMs = Date.now() + 180_000; state !== 'empty'; state = await stateOf(), await delay(250))
      if (Date.now() > untilMs || state === 'incomplete') throw new Error(`the drain ${id} of ${from.id} is ${state}`);
    await test.operator.callWithRetry('PATCH', `/v1/hosts/${from.id}`, { schedulable: true, acceptsMigrations: true });
  };
};

/** Its owner suspends it; in the end it is restored where it was suspended. */
const suspended: Fault = async ({ test, vm }) => {
  const operate = (operation: string) =>
    test.client.callWithRetry('POST', `/v1/vms/${vm}/${operation}`, undefined, { 'idempotency-key': crypto.randomUUID() });
  const { status, body } = await operate('suspend');
  if (status !== 202 && status !== 409) throw new Error(`a suspension: ${status} ${JSON.stringify(body)}`);
  return async () => {
    const isStill = ({ operation, state }: { operation: string | null; state: string }) =>
      operation === null && ['running', 'suspended'].includes(state);
    await vmUntil(test, vm, 'done with its suspension', isStill);
    if ((await vmOf(test, vm)).state === 'running') return;
    // Refused as long as it moves.
    for (const untilMs = Date.now() + 180_000; ; await delay(250)) {
      const { status, body } = await operate('restore');
      if (status === 202) break;
      if (status !== 409 || Date.now() > untilMs) throw new Error(`a restoration: ${status} ${JSON.stringify(body)}`);
    }
    await vmUntil(test, vm, 'restored', ({ operation, state }) => operation === null && state === 'running');
  };
};

const parted = (seconds: number, parts: (struck: Struck) => [Host, string], away = false): Case => ({
  fault: partedFor(seconds * 1000, parts),
  when: 'during',
  lasts: seconds,
  away,
});
const apart = {
  'source and target': ({ from, to }: Struck): [Host, string] => [from, to.address],
  'target and Temporal': (struck: Struck): [Host, string] => [struck.to, outside(struck)],
  'source and Temporal': (struck: Struck): [Host, string] => [struck.from, outside(struck)],
  'home and target': ({ home, to }: Struck): [Host, string] => [home, to.address],
};
const partitions = Object.entries(apart).flatMap(([what, parts]) =>
  [10, 120].map((seconds): [string, Case] => [`part ${what}, ${seconds} s`, parted(seconds, parts, what.startsWith('home'))]),
);

/** The faults that a migration has to survive. */
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
  ...Object.fromEntries(partitions),
  'target disk full': { fault: diskFull, when: 'before' },
  'target out of memory': { fault: outOfMemory, when: 'before' },
  'target refuses': { fault: refusedThere, when: 'before' },
  'same name at target': { fault: sameName, when: 'before' },
  abort: { fault: aborted, when: 'during' },
  'requested twice': { fault: requestedTwice, when: 'during' },
  'requested twice at once': { fault: requestedAtOnce, when: 'first' },
  'task cancelled': { fault: cancelled, when: 'during', endsTask: true },
  'requested while its task is cancelled': { fault: cancelled, when: 'first', endsTask: true },
  'requested while its host is drained': { fault: drained, when: 'first' },
  'requested while it is suspended': { fault: suspended, when: 'first', alone: true },
  'suspended while it moves': { fault: suspended, when: 'during', alone: true },
  nothing: { fault: async () => nothing, when: 'during' },
};
