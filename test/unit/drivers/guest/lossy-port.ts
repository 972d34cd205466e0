import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * A guest's port as QEMU has it, between the program (`guestPath`) and the host (`hostPath`): what is under way when the host is cut
 * off is lost, at any byte, in both directions, and the program is told nothing of it.
 */
export class LossyPort {
  readonly #folder: string;
  #servers: Server[] = [];
  #guest: Socket | null = null;
  #host: Socket | null = null;
  #guestArrived = Promise.withResolvers<void>();
  /** How many more bytes pass before the host is cut off; null: all. */
  #left: number | null = null;
  /** A text of which a bit is turned on its way to the program, once, before the host is cut off. */
  #damaged: string | null = null;
  /** Called after each cut. */
  onCut: () => void = () => undefined;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async open(): Promise<LossyPort> {
    const port = new LossyPort(await mkdtemp(join(tmpdir(), 'berth-port-')));
    const guests = createServer((socket) => port.#takeGuest(socket)).listen(port.guestPath);
    const hosts = createServer((socket) => port.#takeHost(socket)).listen(port.hostPath);
    port.#servers = [guests, hosts];
    await Promise.all(port.#servers.map((server) => once(server, 'listening')));
    return port;
  }

  get guestPath(): string {
    return join(this.#folder, 'guest');
  }

  get hostPath(): string {
    return join(this.#folder, 'host');
  }

  guestArrived(): Promise<void> {
    return this.#guestArrived.promise;
  }

  cutAfter(bytes: number | null): void {
    this.#left = bytes;
  }

  damage(text: string): void {
    this.#damaged = text;
  }

  async close(): Promise<void> {
    this.#guest?.destroy();
    this.#host?.destroy();
    for (const server of this.#servers) server.close();
    await rm(this.#folder, { recursive: true, force: true });
  }

  #takeGuest(socket: Socket): void {
    this.#guest = socket;
    this.#guestArrived.resolve();
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => this.#pass(chunk, this.#host));
  }

  #takeHost(socket: Socket): void {
    this.#host = socket;
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      if (this.#host !== socket) return;
      const at = this.#damaged === null ? -1 : chunk.indexOf(this.#damaged);
      if (at >= 0) {
        chunk[at] = chunk[at]! ^ 1;
        this.#damaged = null;
        this.#left = chunk.length;
      }
      this.#pass(chunk, this.#guest);
    });
    socket.once('close', () => {
      if (this.#host === socket) this.#host = null;
    });
  }

  #pass(chunk: Buffer, to: Socket | null): void {
    const passes = this.#left === null ? chunk.length : Math.min(this.#left, chunk.length);
    to?.write(chunk.subarray(0, passes));
    if (this.#left === null) return;
    this.#left -= passes;
    if (this.#left > 0) return;
    this.#left = null;
    // What was written to the program arrives; what was written to the host may not.
    this.#host?.destroy();
    this.#host = null;
    this.onCut();
  }
}
