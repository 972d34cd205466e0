import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { identityPortName } from '../../drivers/guest/identity-port.ts';
import { killProcessGroup, run } from '../../drivers/host/run-process.ts';

/** The image that infra/setup has built. */
const imageFolder = join(process.env.BERTH_CACHE ?? join(homedir(), '.cache', 'berth'), 'images/debian-12/current');

/** The outcome of a command in the guest. */
export interface Ended {
  exitCode: number;
  stdout: string;
  stderr: string;
}

type Answer = { return?: Record<string, unknown>; error?: { desc: string } };

/**
 * A machine on QEMU alone, emulated, with 256 MiB: the image's disk as an overlay, a data disk with one file, a network
 * card without a connection, and sockets to its agent and to the program that waits for its identity.
 */
export class Machine {
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #ended: Promise<number | null>;
  #agent: { socket: Socket; lines: AsyncIterator<string> } | null = null;

  private constructor(child: ChildProcess, folder: string) {
    this.#child = child;
    this.#folder = folder;
    this.#ended = new Promise((resolve) => child.once('close', resolve));
  }

  /** @param rootDisk the image's disk, or an empty one */
  static async start(rootDisk: 'image' | 'empty' = 'image'): Promise<Machine> {
    const folder = await mkdtemp(join(tmpdir(), 'berth-guest-'));
    const at = (name: string): string => join(folder, name);
    const { cmdline } = JSON.parse(await readFile(join(imageFolder, 'image.json'), 'utf8')) as { cmdline: string };
    const backing = rootDisk === 'image' ? ['-b', join(imageFolder, 'disk.qcow2'), '-F', 'qcow2'] : [];
    await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...backing, at('root'), ...(rootDisk === 'image' ? [] : ['64M'])], {
      deadlineMs: 20_000,
    });
    await writeFile(at('data'), '');
    await truncate(at('data'), 64 * 2 ** 20);
    await run(['mkfs.ext4', '-q', '-F', '-L', 'berth-data', at('data')], { deadlineMs: 20_000 });
    const qemu = [`qemu-system-${process.arch === 'x64' ? 'x86_64' : 'aarch64'}`, '-machine', 'q35,accel=tcg', '-cpu', 'qemu64'];
    const parts = [
      ['-m', '256', '-display', 'none', '-no-reboot', '-serial', `file:${at('console')}`],
      ['-kernel', join(imageFolder, 'kernel'), '-initrd', join(imageFolder, 'initrd'), '-append', cmdline],
      ['-drive', `file=${at('root')},if=virtio,format=qcow2`, '-drive', `file=${at('data')},if=virtio,format=raw`],
      ['-device', 'virtio-serial', '-chardev', `socket,path=${at('agent')},server=on,wait=off,id=agent`],
      ['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0', '-device', 'virtio-rng'],
      ['-chardev', `socket,path=${at('identity')},server=on,wait=off,id=identity`],
      ['-device', `virtserialport,chardev=identity,name=${identityPortName}`],
      ['-netdev', 'user,id=net,restrict=on', '-device', 'virtio-net-pci,netdev=net'],
    ];
    const argv = ['--pdeathsig', 'KILL', '--', ...qemu, ...parts.flat()];
    return new Machine(spawn('setpriv', argv, { detached: true, stdio: ['ignore', 'ignore', 'inherit'] }), folder);
  }

  /** Resolves when the agent answers; throws after the deadline, with the console. */
  async untilAgent(deadlineMs = 60_000): Promise<void> {
    const deadline = performance.now() + deadlineMs;
    while (performance.now() < deadline) {
      const socket = await this.#reach();
      if (socket !== null) {
        this.#agent = { socket, lines: createInterface({ input: socket })[Symbol.asyncIterator]() };
        // A request sent before the agent runs waits in its port, and is answered then.
        await Promise.race([
          this.#ask('guest-ping'),
          delay(deadline - performance.now(), null, { ref: false }).then(() => this.#lost()),
        ]);
        return;
      }
      await delay(10);
    }
    await this.#lost();
  }

  async #lost(): Promise<never> {
    throw new Error(`No answer from the agent; the console says: ${(await this.console()).slice(-2000)}`);
  }

  #reach(): Promise<Socket | null> {
    return new Promise((resolve) => {
      const socket = connect(join(this.#folder, 'agent'));
      socket.once('connect', () => resolve(socket));
      socket.once('error', () => resolve(null));
    });
  }

  async #ask(command: string, args: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    if (this.#agent === null) throw new Error('BUG: asked before untilAgent');
    this.#agent.socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    const line = await this.#agent.lines.next();
    if (line.done) throw new Error(`The machine ended while it was asked for ${command}`);
    const answer = JSON.parse(line.value) as Answer;
    if (answer.return === undefined) throw new Error(`${command}: ${answer.error?.desc}`);
    return answer.return;
  }

  /** Runs a program in the guest, at most a minute. */
  async exec(argv: [string, ...string[]], input = ''): Promise<Ended> {
    const [path, ...arg] = argv;
    const encoded = Buffer.from(input).toString('base64');
    const started = await this.#ask('guest-exec', { path, arg, 'input-data': encoded, 'capture-output': true });
    const decode = (text: unknown): string => Buffer.from(String(text ?? ''), 'base64').toString();
    for (const deadline = performance.now() + 60_000; performance.now() < deadline; await delay(20)) {
      const status = await this.#ask('guest-exec-status', { pid: started.pid });
      if (status.exited !== true) continue;
      return { exitCode: Number(status.exitcode ?? -1), stdout: decode(status['out-data']), stderr: decode(status['err-data']) };
    }
    throw new Error(`${argv.join(' ')}: not done after a minute`);
  }

  /** The output of a shell script. */
  async shell(script: string): Promise<string> {
    const { exitCode, stdout, stderr } = await this.exec(['/bin/sh', '-c', script]);
    if (exitCode !== 0) throw new Error(`${script}: exit ${exitCode}: ${stderr}`);
    return stdout.trim();
  }

  /** QEMU's end of the port at which `berth-identity wait` waits. */
  get identitySocket(): string {
    return join(this.#folder, 'identity');
  }

  console(): Promise<string> {
    return readFile(join(this.#folder, 'console'), 'utf8');
  }

  /** Resolves when the machine has powered itself off. */
  async untilOff(deadlineMs: number): Promise<void> {
    const off = await Promise.race([this.#ended.then(() => true), delay(deadlineMs, false, { ref: false })]);
    if (!off) throw new Error(`Still on after ${deadlineMs} ms; the console says: ${(await this.console()).slice(-2000)}`);
  }

  async stop(): Promise<void> {
    this.#agent?.socket.destroy();
    killProcessGroup(this.#child);
    await this.#ended;
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** The content of the image, before any machine has started from it. */
export async function machineIdOfImage(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-guest-'));
  try {
    const raw = join(folder, 'disk');
    await run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', join(imageFolder, 'disk.qcow2'), raw], { deadlineMs: 60_000 });
    return await run(['debugfs', '-R', 'cat /etc/machine-id', raw], { deadlineMs: 20_000 });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
