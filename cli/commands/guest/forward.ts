import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { CommandError, type Connection, callJson, type Session, UsageError } from '../../client.ts';
import { resolveVm } from '../../names.ts';
import { wholeNumber } from '../../options.ts';
import { type Output, print, printNote, writeBytes } from '../../output.ts';
import { Stream, type StreamOptions } from '../../streams/stream.ts';

const sshPort = 22;

interface Ports {
  local: number;
  remote: number;
}

/** `8080:80`, or `80` for both. */
function portsOf(text: string): Ports {
  const [, first, second] = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(text) ?? [];
  const [local, remote] = [Number(first), Number(second ?? first)];
  if (first === undefined || local > 65_535 || remote < 1 || remote > 65_535)
    throw new UsageError(`${JSON.stringify(text)} names no ports; they are like 8080:80`);
  return { local, remote };
}

const forwardOf = (
  connection: Connection,
  vm: string,
  port: number,
  input: StreamOptions['input'],
  onOutput: StreamOptions['onOutput'],
): Stream =>
  new Stream(connection, { path: `/v1/vms/${encodeURIComponent(vm)}/forward`, query: [['port', String(port)]], input, onOutput });

/** One connection to a local port. One half of it may end before the other: a client that has sent all gets the rest of its answer. */
async function serve(connection: Connection, output: Output, vm: string, port: number, socket: Socket): Promise<void> {
  const stream = forwardOf(connection, vm, port, socket, (_, bytes) => writeBytes(socket, bytes));
  socket.once('close', () => stream.close());
  socket.on('error', () => socket.destroy());
  try {
    await stream.run();
    socket.end();
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    printNote(output, `port ${port}: ${error.message}`);
    socket.destroy();
  }
}

async function listen(connection: Connection, output: Output, vm: string, { local, remote }: Ports): Promise<void> {
  const server = createServer(
    { pauseOnConnect: true, allowHalfOpen: true },
    (socket) => void serve(connection, output, vm, remote, socket),
  );
  server.listen(local, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  print(output, `127.0.0.1:${port} is port ${remote} of ${vm}`);
  await once(server, 'close');
}

/** Runs ssh through a forwarded connection, with the VM's own host key as the only one that it takes. */
async function runSsh(session: Session, which: string, words: string[], { user }: { user?: string }): Promise<void> {
  const connection = session.connect();
  const vm = await resolveVm(connection, which);
  const { hostKey } = await callJson<{ hostKey: string | null }>(connection, `/v1/vms/${encodeURIComponent(vm)}`);
  if (hostKey === null) throw new CommandError(`${vm} has no host key yet: it is being set up, or belongs to a task`);
  const folder = await mkdtemp(join(tmpdir(), 'berth-ssh-'));
  try {
    const known = join(folder, 'known_hosts');
    await writeFile(known, `${vm} ${hostKey}\n`);
    const proxy = [process.execPath, ...process.execArgv, process.argv[1] ?? '', 'forward', vm, '--stdio', String(sshPort)];
    const options = [
      `ProxyCommand=${proxy.map(quote).join(' ')}`,
      `UserKnownHostsFile=${known}`,
      'GlobalKnownHostsFile=/dev/null',
      'StrictHostKeyChecking=yes',
      `HostKeyAlias=${vm}`,
    ].flatMap((option) => ['-o', option]);
    const env = { ...process.env, BERTH_API: connection.api, BERTH_KEY: connection.key };
    const child = spawn('ssh', [...options, ...(user === undefined ? [] : ['-l', user]), vm, ...words], {
      stdio: 'inherit',
      env,
    });
    const [code, signal] = await once(child, 'exit');
    process.exitCode = typeof code === 'number' ? code : 128;
    if (signal !== null) process.exitCode = 128;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** For the shell by which ssh starts its ProxyCommand; ssh itself reads % as a mark. */
const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`).replaceAll('%', '%%')}'`;

export function addForwardCommands(program: Command, session: Session): void {
  program
    .command('forward')
    .description('make a TCP port of a VM one of this machine')
    .argument('<vm>', 'its id or name')
    .argument('[ports...]', 'LOCAL:REMOTE, or one for both; LOCAL 0 is any free one')
    .option('--stdio <port>', 'connect standard input and output with one port, as a ProxyCommand', wholeNumber)
    .addHelpText(
      'after',
      `
A connection goes on through a live migration of the VM. It reaches what listens at 127.0.0.1 of the guest.

Examples:
  berth forward web 8080:80
  ssh -o ProxyCommand='berth forward web --stdio 22' ann@web
  rsync -e "ssh -o ProxyCommand='berth forward web --stdio 22'" site/ ann@web:/srv/`,
    )
    .action(async (which: string, texts: string[], { stdio }: { stdio?: number }) => {
      if ((stdio === undefined) === (texts.length === 0)) throw new UsageError('Which ports? Give some like 8080:80, or --stdio');
      const ports = texts.map(portsOf);
      const connection = session.connect();
      const vm = await resolveVm(connection, which);
      if (stdio === undefined) {
        await Promise.all(ports.map((pair) => listen(connection, session.output(), vm, pair)));
        return;
      }
      const { out } = session.output();
      await forwardOf(connection, vm, stdio, process.stdin, (_, bytes) => writeBytes(out, bytes)).run();
      process.stdin.destroy();
    });

  program
    .command('ssh')
    .description('log in to a VM by ssh, whose host key is known')
    .argument('<vm>', 'its id or name')
    .argument('[command...]', 'the command and further options of ssh, after --')
    .option('-l, --user <name>', 'the user there')
    .addHelpText('after', '\nExample:\n  berth ssh web --user ann -- uptime')
    .action((which: string, words: string[], options: { user?: string }) => runSsh(session, which, words, options));
}
