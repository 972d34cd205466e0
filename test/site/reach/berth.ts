import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { until } from '../../../infra/site/until.ts';
import { vmOf } from '../subjects.ts';
import type { TestSite } from '../the-site.ts';

const program = fileURLToPath(new URL('../../../cli/berth.ts', import.meta.url));

/** The client's own program, as a shell has it to start. */
export const berthArgv = (...words: string[]): [string, ...string[]] => [process.execPath, program, ...words];

/** The same as one line for a shell, as ssh takes its ProxyCommand. */
export const berthLine = (...words: string[]): string => berthArgv(...words).join(' ');

export const berthEnv = ({ site }: TestSite): Record<string, string> => ({
  ...(process.env as Record<string, string>),
  BERTH_API: site.ready.api,
  BERTH_KEY_FILE: site.ready.clientKeyFile,
});

export interface Ended {
  output: Buffer;
  error: string;
  code: number | null;
}

export interface Running {
  child: ChildProcessWithoutNullStreams;
  ended: Promise<Ended>;
}

/** Starts a program with the client's environment. @param onOutput called with each piece of the standard output */
export function start(
  test: TestSite,
  [command, ...words]: readonly [string, ...string[]],
  onOutput: (bytes: Buffer) => void = () => undefined,
): Running {
  const child = spawn(command, words, { env: berthEnv(test), stdio: 'pipe' });
  const output: Buffer[] = [];
  let error = '';
  child.stdout.on('data', (bytes: Buffer) => {
    output.push(bytes);
    onOutput(bytes);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    error += text;
  });
  // One that has ended takes no more input: its exit code tells.
  child.stdin.on('error', () => undefined);
  const ended = once(child, 'close').then(([code]): Ended => ({ output: Buffer.concat(output), error, code }));
  return { child, ended };
}

/** Runs `berth` to its end. */
export function berth(test: TestSite, words: string[], input: Buffer | string = ''): Promise<Ended> {
  const { child, ended } = start(test, berthArgv(...words));
  child.stdin.end(input);
  return ended;
}

/** A VM whose guest is set up: one that moves before that is set up there once more. */
export async function startVm(test: TestSite, name: string, more: object = {}): Promise<string> {
  const order = { name, image: 'debian-12', resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 }, ...more };
  const answer = await test.client.callWithRetry<{ id: string }>('POST', '/v1/vms', order, {
    'idempotency-key': crypto.randomUUID(),
  });
  if (answer.status !== 202) throw new Error(`a VM: ${answer.status} ${JSON.stringify(answer.body)}`);
  const { id } = answer.body;
  const hostKey = async () => (await test.client.callWithRetry<{ hostKey: string | null }>('GET', `/v1/vms/${id}`)).body.hostKey;
  await until(`${name} is set up`, 180_000, async () => (await hostKey()) !== null);
  return id;
}

export async function removeVm(test: TestSite, id: string): Promise<void> {
  await test.client.callWithRetry('DELETE', `/v1/vms/${id}`);
  await until('the VM is removed', 120_000, async () => (await vmOf(test, id)).state === 'removed');
}
