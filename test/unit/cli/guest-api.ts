import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { type WebSocket, WebSocketServer } from 'ws';
import { berthProtocol, channelMessage, channels, exitStatus, jsonMessage } from '../../../model/streams/channels.ts';

const program = new URL('../../../cli/berth.ts', import.meta.url).pathname;
export const vm = 'vm_01m8pdhpvaeshb8r7fe0p0bss6';

/** What a guest does with a session, of which the API knows the words of the command. */
type Guest = (socket: WebSocket, command: string[]) => void;

/** An API of one VM, whose guest is what a test says. */
export interface GuestApi {
  /** null: the API refuses each session. */
  guest: Guest | null;
  /** Starts `berth`. */
  start(words: string[], cwd: string): ChildProcessByStdio<null, Readable, Readable>;
  close(): void;
}

export async function openGuestApi(): Promise<GuestApi> {
  const refusal = JSON.stringify({ title: 'Conflict', code: 'conflict', detail: 'it does not run', status: 409 });
  const server = createServer((_, response) =>
    response.writeHead(200, { 'content-type': 'application/json' }).end(`{"id":"${vm}"}`),
  );
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => berthProtocol });
  server.on('upgrade', (request, socket, head) => {
    const { guest } = api;
    if (guest === null)
      return socket.end(`HTTP/1.1 409 Conflict\r\nContent-Length: ${refusal.length}\r\nConnection: close\r\n\r\n${refusal}`);
    const command = new URL(request.url!, 'http://api').searchParams.getAll('command');
    sockets.handleUpgrade(request, socket, head, (client) => {
      client.send(jsonMessage(channels.control, { session: 's', input: 0, output: 0 }));
      guest(client, command);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const api: GuestApi = {
    guest: null,
    start(words, cwd) {
      const env = { ...process.env, BERTH_API: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, BERTH_KEY: 'key' };
      return spawn(process.execPath, [program, ...words], { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
    },
    close() {
      server.close();
      server.closeAllConnections();
      for (const client of sockets.clients) client.terminate();
    },
  };
  return api;
}

/** The exit code, and what it said of errors. */
export async function endOf(child: ReturnType<GuestApi['start']>): Promise<{ code: number | null; error: string }> {
  const ended = once(child, 'exit');
  const error = await text(child.stderr);
  return { error, code: (await ended)[0] as number | null };
}

/** Takes what the client sends as its input; `onEnd` after all of it. */
export function takeInput(socket: WebSocket, onBytes: (bytes: Buffer, taken: () => void) => void, onEnd: () => void): void {
  let read = 0;
  socket.on('message', (data: Buffer) => {
    if (data[0] === channels.close) onEnd();
    if (data[0] !== channels.stdin) return;
    const bytes = data.subarray(1);
    onBytes(bytes, () => {
      read += bytes.length;
      socket.send(jsonMessage(channels.control, { input: read }));
    });
  });
}

export const say = (socket: WebSocket, channel: 1 | 2, bytes: Uint8Array): void => socket.send(channelMessage(channel, bytes));

export function end(socket: WebSocket, code: number): void {
  socket.send(jsonMessage(channels.status, exitStatus(code)));
  socket.close(1000);
}
