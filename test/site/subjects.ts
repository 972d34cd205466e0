import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import type { TaskAnswer } from './client.ts';
import { setSchedulable } from './drains.ts';
import { copiesOf, counterScript, counting, faultOf, numbersOf, readsPast } from './moves.ts';
import { leftovers, onHost, type TestSite } from './the-site.ts';

/** A VM that counts, and writes each number to its disk before the next: the count shows any damage. */
export interface Subject {
  vm: string;
  /** The task whose command counts; null for a VM without a task. */
  task: string | null;
  numbers: () => Promise<string[]>;
}

const endless = 1_000_000;

export async function working(test: TestSite): Promise<Subject> {
  const { id, vms } = await counting(test, endless);
  return { vm: vms[0]!, task: id, numbers: () => numbersOf(test, id) };
}

/** Each host gets the image by running a task; one that gets none of them, alone: placement prefers hosts that have it. */
export async function warm(test: TestSite): Promise<void> {
  const all = test.site.hosts.map(({ id }) => id);
  const lacking = async (): Promise<string[]> => {
    const images = (id: string) => onHost(test, id, ['sh', '-c', 'ls /var/lib/berth/images/*/image.json 2>/dev/null || true']);
    const found = await Promise.all(all.map(async (id) => ({ id, hasNone: (await images(id)).trim() === '' })));
    return found.filter(({ hasNone }) => hasNone).map(({ id }) => id);
  };
  const run = async (nodes: number): Promise<string[]> => {
    const { id } = await test.client.submit({ image: 'debian-12', command: ['true'], nodes });
    return (await test.client.over(id)).hosts;
  };
  if ((await lacking()).length === all.length) await run(all.length);
  for (const host of await lacking()) {
    const others = all.filter((id) => id !== host);
    await setSchedulable(test, others, false);
    expect(await run(1)).toEqual([host]);
    await setSchedulable(test, others, true);
  }
}

interface VmAnswer {
  id: string;
  state: string;
  host: string;
  home: string;
  operation: string | null;
  problem: { code: string; message: string } | null;
}

export async function vmOf({ client }: TestSite, vm: string): Promise<VmAnswer> {
  return (await client.callWithRetry<VmAnswer>('GET', `/v1/vms/${vm}`)).body;
}

/** A VM that belongs to no task, and that its owner can suspend. */
export async function standingAlone(test: TestSite): Promise<Subject> {
  const name = `alone-${crypto.randomUUID().slice(0, 8)}`;
  const order = {
    name,
    image: 'debian-12',
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 },
    firstBoot: [`cd /home/task; setsid sh -c '${counterScript(endless)}' >/dev/null 2>&1 </dev/null &`],
  };
  const headers = { 'idempotency-key': crypto.randomUUID() };
  const made = await test.client.callWithRetry<VmAnswer>('POST', '/v1/vms', order, headers);
  if (made.status !== 202) throw new Error(`a VM: ${made.status} ${JSON.stringify(made.body)}`);
  const vm = made.body.id;
  await vmUntil(test, vm, 'running', ({ state }) => state === 'running');
  const subject = { vm, task: null, numbers: () => numbersIn(test, vm) };
  await readsPast(subject.numbers, 3, 90);
  return subject;
}

export async function vmUntil(test: TestSite, id: string, what: string, isSo: (vm: VmAnswer) => boolean): Promise<VmAnswer> {
  for (const untilMs = Date.now() + 180_000; ; await delay(100)) {
    const vm = await vmOf(test, id);
    if (isSo(vm)) return vm;
    if (Date.now() > untilMs) throw new Error(`${id} is not ${what} but ${JSON.stringify(vm)}`);
  }
}

const agent = async (test: TestSite, host: string, vm: string, command: object): Promise<{ return: Record<string, unknown> }> =>
  JSON.parse(await onHost(test, host, ['virsh', '-q', 'qemu-agent-command', vm, JSON.stringify(command)]));

/** Whether a guest that runs by its hypervisor also answers itself: one whose kernel has died doesn't. */
export async function answersAgent(test: TestSite, host: string, domain: string): Promise<boolean> {
  const ping = ['virsh', '-q', 'qemu-agent-command', domain, '{"execute":"guest-ping"}', '--timeout', '10'] as const;
  return onHost(test, host, [...ping]).then(
    () => true,
    () => false,
  );
}

/** The end of a guest's console output: a kernel that dies writes the reason there. */
export async function lastWords(test: TestSite, host: string, log: string): Promise<string> {
  return (await onHost(test, host, ['sh', '-c', `tail -c 6000 ${log} 2>&1 || true`])).trim();
}

/** What a VM without a task has counted, read in its guest. */
async function numbersIn(test: TestSite, vm: string): Promise<string[]> {
  const { host } = await vmOf(test, vm);
  const path = { path: '/bin/cat', arg: ['/home/task/numbers'], 'capture-output': true };
  try {
    const { pid } = (await agent(test, host, vm, { execute: 'guest-exec', arguments: path })).return;
    for (const untilMs = Date.now() + 20_000; Date.now() < untilMs; await delay(50)) {
      const { return: status } = await agent(test, host, vm, { execute: 'guest-exec-status', arguments: { pid } });
      if (status.exited !== true) continue;
      const text = Buffer.from(String(status['out-data'] ?? ''), 'base64').toString();
      return text.split('\n').filter((line) => line !== '');
    }
  } catch {
    // It moves, or its guest is still booting: the caller tries again.
  }
  return [];
}

/**
 * A host that was cut off reconnects to Temporal, and then does the work that was queued meanwhile; on a busy machine that
 * takes a while.
 */
const tidiedMs = 120_000;

export async function nothingLeft(test: TestSite): Promise<void> {
  let found: string[] = [];
  for (const untilMs = Date.now() + tidiedMs; Date.now() < untilMs; await delay(250)) {
    found = await leftovers(test);
    if (found.length === 0) return;
  }
  throw new Error(`left behind: ${found.join('; ')}`);
}

/**
 * The kernel has ended its process, but its hypervisor, which may wait for a host that it has lost, has not removed it yet.
 */
const isEnding = ({ state }: { state: string }): boolean => state === 'in shutdown' || state === 'shut off';

/**
 * One copy, which runs there, by the hypervisors of all hosts and by the ledger; soon the only one that any of them knows
 * of.
 */
export async function runningAt(test: TestSite, vm: string, where: string): Promise<void> {
  let copies = await copiesOf(test, vm);
  const isWorthWaiting = () => copies.some(isEnding) && copies.filter((copy) => !isEnding(copy)).length === 1;
  for (const untilMs = Date.now() + 30_000; isWorthWaiting() && Date.now() < untilMs; await delay(500))
    copies = await copiesOf(test, vm);
  const ledger = await vmOf(test, vm);
  // Whether its guest has crashed, as one of an emulated processor may when it moves, is in the ledger.
  if (copies.length !== 1 || copies[0]!.host !== where || copies[0]!.state !== 'running')
    throw new Error(`${vm} is to run at ${where} alone, and there is: ${JSON.stringify({ copies, ledger })}`);
  if (ledger.host !== where || ledger.state !== 'running')
    throw new Error(`the ledger says ${ledger.state} at ${ledger.host}, not running at ${where}`);
}

/** What is left of the VM on hosts that are neither its own nor its home. A host that was silent cleans up by itself. */
export async function onlyAt(test: TestSite, vm: string): Promise<void> {
  let found: string[] = [];
  for (const untilMs = Date.now() + tidiedMs; Date.now() < untilMs; await delay(500)) {
    const { host, home } = await vmOf(test, vm);
    found = [];
    for (const { id } of test.site.hosts) {
      const folder = (await onHost(test, id, ['sh', '-c', `ls -d /var/lib/berth/vms/${vm} 2>/dev/null || true`])).trim();
      if (folder !== '' && id !== host && id !== home) found.push(`${id}: ${folder}`);
    }
    if (found.length === 0) return;
  }
  throw new Error(`left behind: ${found.join('; ')}`);
}

/** Its process was hit: either it continues to count, or it has failed and reports it. */
export async function isLost(test: TestSite, { task, numbers }: Subject): Promise<boolean> {
  const counted = (await numbers()).length;
  for (const untilMs = Date.now() + 180_000; Date.now() < untilMs; await delay(250)) {
    const { state, error } = await test.client.task(task!);
    if (state === 'failed' && error?.code === 'vm-lost') return true;
    if (state === 'failed') throw new Error(`the task failed otherwise: ${JSON.stringify(error)}`);
    if ((await numbers()).length > counted) return false;
  }
  throw new Error('the VM neither goes on nor is it reported as lost');
}

/**
 * The disks are consistent while the guest is paused; then the count ends in order, and nothing is left. Returns its task.
 */
export async function finish(test: TestSite, subject: Subject): Promise<TaskAnswer | null> {
  const { vm, task } = subject;
  const { host, home } = await vmOf(test, vm);
  const folder = `/var/lib/berth/vms/${vm}`;
  await onHost(test, host, ['virsh', '-q', 'domfsfreeze', vm]);
  try {
    await onHost(test, home, ['qemu-img', 'check', '-q', '-U', `${folder}/disk.qcow2`]);
    await onHost(test, home, ['e2fsck', '-fn', `${folder}/data.raw`]);
  } finally {
    await onHost(test, host, ['virsh', '-q', 'domfsthaw', vm]);
  }
  const over = task === null ? null : await countsToItsEnd(test, host, vm, task, subject);
  if (over === null) {
    const fault = faultOf(await subject.numbers());
    if (fault !== null) throw new Error(fault);
    await abandon(test, subject);
  }
  await nothingLeft(test);
  return over;
}

async function countsToItsEnd(test: TestSite, host: string, vm: string, task: string, { numbers }: Subject): Promise<TaskAnswer> {
  await agent(test, host, vm, { execute: 'guest-exec', arguments: { path: '/usr/bin/touch', arg: ['/home/task/stop'] } });
  const over = await test.client.over(task);
  if (over.state !== 'succeeded') throw new Error(`the task is ${over.state}: ${JSON.stringify(over.error)}`);
  const written = (await test.client.download(over.outputs[0]!.file)).toString().trim().split('\n');
  const said = await numbers();
  const fault = faultOf(written) ?? faultOf(said);
  if (fault !== null || written.length !== said.length)
    throw new Error(`${fault ?? 'the log and the file differ'}: ${said.length} said, ${written.length} written`);
  return over;
}

export async function abandon(test: TestSite, { vm, task }: Subject): Promise<void> {
  if (task === null) {
    await test.client.callWithRetry('DELETE', `/v1/vms/${vm}`);
    await vmUntil(test, vm, 'removed', ({ state }) => state === 'removed');
    return;
  }
  await test.client.callWithRetry('DELETE', `/v1/tasks/${task}`);
  await test.client.over(task, 300);
}
