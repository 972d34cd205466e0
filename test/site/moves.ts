import { setTimeout as delay } from 'node:timers/promises';
import type { TaskAnswer } from './client.ts';
import { onHost, type TestSite } from './the-site.ts';

export interface MigrationAnswer {
  id: string;
  state: string;
  mode: string;
  from: string;
  to: string | null;
  generation: number;
  downtimeMs: number | null;
  bytes: number;
  phases: { name: string; startedAt: string; seconds: number | null; bytes: number }[];
  progress: { processedBytes: number; remainingBytes: number; etaS: number | null } | null;
  /** A live migration, some time after its end. */
  guest: string | null;
  error: { code: string; message: string } | null;
}

export interface MoveOrder {
  to?: string;
  mode?: 'live' | 'cold' | 'disks';
  moveDisk?: boolean;
  ifNotConverging?: 'rollBack' | 'cold';
  convergeWithinS?: number;
}

/** Requests a migration; any status other than 202 is an answer as well. */
export async function askMove({ client }: TestSite, vm: string, order: MoveOrder = {}) {
  const headers = { 'idempotency-key': crypto.randomUUID() };
  return client.callWithRetry<MigrationAnswer & { code?: string }>('POST', `/v1/vms/${vm}/migrations`, order, headers);
}

export async function move(test: TestSite, vm: string, order: MoveOrder = {}): Promise<MigrationAnswer> {
  const answer = await askMove(test, vm, order);
  if (answer.status !== 202) throw new Error(`migrate ${vm}: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
}

export async function readMove({ client }: TestSite, id: string): Promise<MigrationAnswer> {
  return (await client.callWithRetry<MigrationAnswer>('GET', `/v1/migrations/${id}`)).body;
}

/** Waits for the end, whatever the outcome. */
export async function moveOver(test: TestSite, id: string, seconds = 240, pollMs = 50): Promise<MigrationAnswer> {
  for (const untilMs = Date.now() + seconds * 1000; ; await delay(pollMs)) {
    const found = await readMove(test, id);
    if (found.state === 'succeeded' || found.state === 'rolledBack') return found;
    if (Date.now() > untilMs) throw new Error(`${id} is ${found.state} after ${seconds} s: ${JSON.stringify(found)}`);
  }
}

/** The hosts that have a domain of this VM, by every host's own hypervisor. */
export async function copiesOf(test: TestSite, vm: string): Promise<{ host: string; state: string }[]> {
  const found: { host: string; state: string }[] = [];
  for (const { id } of test.site.hosts) {
    const list = await onHost(test, id, ['virsh', '-q', 'list', '--all']);
    for (const line of list.split('\n')) {
      const [, name, ...state] = line.trim().split(/\s+/);
      if (name === vm) found.push({ host: id, state: state.join(' ') });
    }
  }
  return found;
}

/**
 * Counts, five times a second, and writes each number to its disk before it prints it; until the end, or until there is a
 * file `stop`.
 */
export const counterScript = (until: number): string =>
  `i=0; while [ $i -lt ${until} ] && [ ! -e stop ]; do i=$((i+1)); echo $i >> numbers; sync numbers; echo $i; sleep 0.2; done`;

export const counter = (until: number, memoryMiB = 192) => ({
  image: 'debian-12',
  command: ['sh', '-c', counterScript(until)],
  outputs: ['numbers'],
  resources: { vcpus: 1, memoryMiB, diskMiB: 64 },
  timeoutS: 3600,
  lease: { kind: 'bestEffort', durationS: 7200 },
});

export async function numbersOf({ client }: TestSite, task: string): Promise<string[]> {
  return (await client.callWithRetry<string>('GET', `/v1/tasks/${task}/log`)).body.split('\n').filter((line) => line !== '');
}

/** A task that counts, and has begun to. */
export async function counting(test: TestSite, until: number, memoryMiB?: number): Promise<TaskAnswer> {
  const { id } = await test.client.submit(counter(until, memoryMiB));
  await countsPast(test, id, 3, 240);
  return test.client.task(id);
}

/** Waits until the count has passed a number, and returns all that was counted. */
export const countsPast = (test: TestSite, task: string, past: number, seconds?: number): Promise<string[]> =>
  readsPast(() => numbersOf(test, task), past, seconds);

export async function readsPast(read: () => Promise<string[]>, past: number, seconds = 150): Promise<string[]> {
  for (const untilMs = Date.now() + seconds * 1000; ; await delay(100)) {
    const numbers = await read();
    if (numbers.length > past) return numbers;
    if (Date.now() > untilMs) throw new Error(`the count is at ${numbers.length} after ${seconds} s, not past ${past}`);
  }
}

/** The first gap or repetition in the count; null: none. */
export function faultOf(numbers: readonly string[]): string | null {
  const at = numbers.findIndex((number, index) => number !== String(index + 1));
  return at < 0
    ? null
    : `number ${at + 1} of the count is ${numbers[at]}: ${numbers.slice(Math.max(0, at - 3), at + 3).join(' ')}`;
}
