import { describe, expect, it } from 'vitest';
import { openGuestAgent } from '../../../../drivers/guest/guest-agent.ts';
import type { Virsh } from '../../../../drivers/libvirt/virsh.ts';

/** An agent of a guest that answers each command with what it likes. */
function agentThatSays(answers: Record<string, unknown>) {
  const call: Virsh['call'] = async ([, , request = '']) => {
    const { execute } = JSON.parse(request) as { execute: string };
    return { ok: true, output: JSON.stringify({ return: answers[execute] ?? {} }), error: '' } as Awaited<
      ReturnType<Virsh['call']>
    >;
  };
  return openGuestAgent({ call } as Virsh);
}

const base64 = (bytes: number): string => Buffer.alloc(bytes, 'x').toString('base64');

describe('an answer of a guest', () => {
  it.each([1, 2, 3, 64, 4096])('to a read of %d bytes is no longer than that', async (limit) => {
    const agent = agentThatSays({ 'guest-file-open': 1, 'guest-file-read': { count: 1, 'buf-b64': base64(200_000) } });
    expect((await agent.readFile('vm', '/a', 0, limit))?.length).toBe(limit);
  });

  it.each([
    [{ exitcode: 99_999_999_999 }, 255],
    [{ exitcode: -1 }, 255],
    [{ exitcode: 0.5 }, 255],
    [{ exitcode: '0' }, 128],
    [{ signal: 9 }, 137],
    [{ signal: 1e300 }, 255],
    [{ exitcode: 7 }, 7],
  ])('with the status %j is an exit code', async (status, exitCode) => {
    const agent = agentThatSays({ 'guest-exec-status': { exited: true, ...status } });
    expect(await agent.execStatus('vm', 1)).toMatchObject({ exitCode });
  });

  it('of a program is cut where a program of Berth never comes to', async () => {
    const agent = agentThatSays({
      'guest-exec-status': { exited: true, exitcode: 0, 'out-data': base64(2 ** 20), 'err-data': 7 },
    });
    const ended = await agent.execStatus('vm', 1);
    expect(ended?.stdout.length).toBe(64 * 1024);
    expect(ended?.stderr).toBe('');
  });
});
