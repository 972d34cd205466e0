import {
  encodeGuestFrame,
  type GuestFrame,
  parseHostFrame,
  payloadBytes,
  type StreamRequest,
} from '../../../model/streams/frames.ts';
import { messageOf } from '../../host/files.ts';
import { AgentError, type GuestAgent } from '../guest-agent.ts';

/** Of a command without a time-out. */
const longestS = 600;

/**
 * Runs one command by the guest's agent, for guests without Berth's program: it has no input, its output comes at its end, 64 KiB
 * of it at most, and it can't be resumed.
 */
export async function runByAgent(
  agent: Pick<GuestAgent, 'exec'>,
  domain: string,
  session: string,
  body: Uint8Array,
  send: (body: Uint8Array) => void,
): Promise<void> {
  const frame = parseHostFrame(body);
  const answer = (frame: GuestFrame): void => send(encodeGuestFrame(session, frame));
  if (frame?.type !== 'open') return answer({ type: 'refused', why: 'unknown' });
  answer({ type: 'attached', input: 0, signals: 0, first: 0, last: 0 });
  const { stdout, stderr, code } = await run(agent, domain, frame.request);
  let at = 0;
  for (const [channel, text] of [
    [1, stdout],
    [2, stderr],
  ] as const) {
    const bytes = Buffer.from(text);
    for (let from = 0; from < bytes.length; from += payloadBytes) {
      const part = bytes.subarray(from, from + payloadBytes);
      answer({ type: 'output', at, channel, bytes: part });
      at += part.length;
    }
  }
  answer({ type: 'ended', at, how: 'exited', code });
}

async function run(
  agent: Pick<GuestAgent, 'exec'>,
  domain: string,
  { argv, env, folder, timeoutS }: StreamRequest,
): Promise<{ stdout: string; stderr: string; code: number }> {
  // The agent starts programs in its own folder.
  const inFolder = ['/bin/sh', '-c', 'cd "$1" 2>/dev/null || cd /; shift; exec "$@"', 'sh', folder, ...argv];
  try {
    const deadlineMs = (timeoutS || longestS) * 1000;
    const { exitCode, stdout, stderr } = await agent.exec(domain, inFolder, { deadlineMs, env });
    return { stdout, stderr, code: exitCode };
  } catch (error) {
    return { stdout: '', stderr: `${messageOf(error)}\n`, code: error instanceof AgentError ? 126 : 255 };
  }
}
