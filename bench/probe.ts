import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { killProcessGroup } from '../drivers/host/run-process.ts';
import { nsenterArgv } from '../infra/site/host/host.ts';
import { onHost, type TestSite } from '../test/site/the-site.ts';

/** A separate station on an owner's network, at one host, that pings a guest a hundred times a second. */
export interface Probe {
  /** Pings while `act` runs, and returns its result with the longest time between two answers, ms. */
  during<T>(address: string, act: () => Promise<T>): Promise<{ result: T; longestGapMs: number }>;
  close(): Promise<void>;
}

/** @param bridge the owner's bridge at that host. @param station an address/length that the ledger never allocates */
export async function openProbe(test: TestSite, host: string, bridge: string, station: string): Promise<Probe> {
  const commands = [
    'ip netns add probe',
    `ip link add probe0 mtu 1450 type veth peer name probe1 mtu 1450 netns probe`,
    `ip link set probe0 master ${bridge} up`,
    `ip -n probe address add ${station} dev probe1`,
    'ip -n probe link set probe1 up',
  ];
  await onHost(test, host, ['sh', '-ec', commands.join('\n')]);
  const pid = test.site.hosts.find(({ id }) => id === host)!.pid()!;
  return {
    async during(address, act) {
      const [program, ...argv] = nsenterArgv(pid, ['ip', 'netns', 'exec', 'probe', 'ping', '-n', '-D', '-i', '0.01', address]);
      // A process group of its own: when nsenter ends, the ping that it started does not.
      const child = spawn(program, argv, { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
      const answers = collectAnswerTimes(child);
      try {
        await waitForAnswers(answers, 5);
        const result = await act();
        // A gap ends with the next answer.
        await waitForAnswers(answers, answers.length + 20);
        return { result, longestGapMs: longestGap(answers) };
      } finally {
        killProcessGroup(child);
      }
    },
    async close() {
      // Deletes the veth pair together with the namespace.
      await onHost(test, host, ['ip', 'netns', 'delete', 'probe']);
    },
  };
}

/** The pinged address does not answer. */
export class PingTimeout extends Error {}

/** Collects the arrival time of each answer, in ms. */
function collectAnswerTimes(child: ChildProcessByStdio<null, Readable, null>): number[] {
  const answers: number[] = [];
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const at = /^\[(\d+\.\d+)\] \d+ bytes from/.exec(line)?.[1];
      if (at !== undefined) answers.push(Number(at) * 1000);
    }
  });
  return answers;
}

async function waitForAnswers(answers: readonly number[], count: number): Promise<void> {
  for (const untilMs = Date.now() + 30_000; answers.length < count; await delay(10))
    if (Date.now() > untilMs) throw new PingTimeout(`the guest answered ${answers.length} pings in 30 s, not ${count}`);
}

function longestGap(answers: readonly number[]): number {
  return answers.slice(1).reduce((longest, at, index) => Math.max(longest, at - answers[index]!), 0);
}
