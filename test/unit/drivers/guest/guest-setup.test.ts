import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openGuest } from '../../../../drivers/guest/guest.ts';
import type { GuestAgent } from '../../../../drivers/guest/guest-agent.ts';
import { firstBootScript, refusedExitCode, refuseFunction } from '../../../../drivers/guest/guest-setup.ts';
import { newHostKey } from '../../../../drivers/guest/host-key.ts';
import type { GuestSetup } from '../../../../drivers/ports/guest.ts';

/** The part that acts on paths of its caller, run here by this machine's sh as a guest's agent would run it. */
let root: string;
let state: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'berth-first-boot-'));
  state = join(root, 'state');
  mkdirSync(state);
});
afterEach(() => rmSync(root, { recursive: true }));

function setUp(firstBoot: string[], files: GuestSetup['files'] = []) {
  const script = `set -e\n${refuseFunction}\n${firstBootScript({ firstBoot, files }, state)}`;
  const began = performance.now();
  const { status, stderr } = spawnSync('/bin/sh', ['-s'], { input: script, encoding: 'utf8', timeout: 60_000 });
  return { status, stderr, ms: performance.now() - began };
}
const runs = () => readFileSync(join(root, 'runs'), 'utf8');
const count = () => `echo x >>${join(root, 'runs')}`;

describe("the first boot's commands", () => {
  it('run once, however often the guest is set up', () => {
    for (let i = 0; i < 3; i += 1) expect(setUp([count()])).toMatchObject({ status: 0, stderr: '' });
    expect(runs()).toBe('x\n');
  });

  it('may leave a process in the background: the set-up does not wait for it', () => {
    const { status, ms } = setUp([`sleep 601 & echo $! >${join(root, 'pid')}`]);
    expect(status).toBe(0);
    expect(ms).toBeLessThan(20_000);
    process.kill(Number(readFileSync(join(root, 'pid'), 'utf8')));
  });

  it('that fail are told with their exit code and their last words, as the caller’s fault', () => {
    const { status, stderr } = setUp(['echo so far >&2', 'ls /no/such/thing', count()]);
    expect(status).toBe(refusedExitCode);
    expect(stderr).toMatch(/^berth: the first-boot commands ended with exit code 2: .*\/no\/such\/thing/s);
    expect(existsSync(join(root, 'runs'))).toBe(false);
  });

  it('that reboot the machine are told as such when it is up again, and not run again', () => {
    setUp([count(), 'false']);
    writeFileSync(join(state, 'first-boot-began'), 'the id of another boot\n');
    const { status, stderr } = setUp([count(), 'false']);
    expect([status, stderr]).toEqual([refusedExitCode, expect.stringMatching(/^berth: the machine was rebooted before/)]);
    expect(runs()).toBe('x\n');
  });
});

describe('a file of a VM', () => {
  const install = (path: string) => {
    writeFileSync(join(root, 'from'), 'content');
    return setUp([], [{ from: join(root, 'from'), path, mode: '0640' }]);
  };

  it('is put at its path with its mode, and folders are made for it', () => {
    const path = join(root, 'deep', "it's", 'file');
    expect(install(path)).toMatchObject({ status: 0, stderr: '' });
    expect([readFileSync(path, 'utf8'), statSync(path).mode & 0o7777]).toEqual(['content', 0o640]);
  });

  it('is never put into, or in place of, a folder of the image, whose mode does not change', () => {
    const path = join(root, 'folder');
    mkdirSync(path, { mode: 0o755 });
    const { status, stderr } = install(path);
    expect([status, stderr]).toEqual([refusedExitCode, expect.stringMatching(/is a folder of the image/)]);
    expect(statSync(path).mode & 0o7777).toBe(0o755);
    expect(execFileSync('ls', [path], { encoding: 'utf8' })).toBe('');
  });

  it('below a file is refused as the caller’s fault', () => {
    writeFileSync(join(root, 'plain'), '');
    const { status, stderr } = install(join(root, 'plain', 'file'));
    expect([status, stderr]).toEqual([refusedExitCode, expect.stringMatching(/could not be written: mkdir/)]);
  });
});

it('what the guest refuses is no failure of the hypervisor, and not tried again', async () => {
  const exec: GuestAgent['exec'] = async () => ({ exitCode: refusedExitCode, stdout: '', stderr: 'berth: no such user\n' });
  const guest = openGuest({ exec } as unknown as GuestAgent, [], () => '');
  const identity = { firstBootKind: null, mac: '', hostname: 'web', machineId: '', address: '192.0.2.2', cidr: '192.0.2.0/24' };
  const setup = { hostKey: newHostKey('x'), user: null, files: [], firstBoot: [], swapMiB: 0 };
  const refusal = guest.setUp('berth-web', { ...identity, gateway: '192.0.2.1', neighbours: [], timeMs: 0 }, setup);
  await expect(refusal).rejects.toMatchObject({
    code: 'setup-failed',
    retryable: false,
    message: expect.stringMatching(/no such user/),
  });
});
