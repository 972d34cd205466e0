import type { WebSocket } from 'ws';

/** Close codes of RFC 6455 and its registry. */
export const closeCodes = {
  normal: 1000,
  goingAway: 1001,
  protocolError: 1002,
  policy: 1008,
  tooBig: 1009,
  serverError: 1011,
  serviceRestart: 1012,
} as const;

/** A close frame has 125 bytes, two of which are its code: RFC 6455, 5.5. */
const reasonBytes = 123;

/** What the other end sent is no message of its protocol. Its connection ends with the reason, and nothing else does. */
export class InvalidMessage extends Error {
  /** null: the one of the connection for what is not of its protocol. */
  readonly code: number | null;

  constructor(reason: string, code: number | null = null) {
    super(reason);
    this.code = code;
  }
}

/** What takes the messages of one connection. What they throw never leaves the listener: that would end the process. */
export interface MessageHandlers {
  /** Without it, text is invalid. */
  text?: (bytes: Buffer) => void;
  /** Without it, a binary message is invalid. */
  binary?: (bytes: Buffer) => void;
  /** The answer to a ping. */
  pong?: (bytes: Buffer) => void;
  /** The close code for an invalid message. */
  invalid?: number;
  /** Told of whatever else is thrown; the connection ends as well. */
  onBug: (error: unknown) => void;
}

/**
 * The one place where Berth takes messages of WebSockets: those of clients, of hosts and of the API. A message that comes after
 * this end has closed the connection is dropped.
 */
export function takeMessages(socket: WebSocket, handlers: MessageHandlers): void {
  const { text, binary, pong, onBug, invalid = closeCodes.protocolError } = handlers;
  const guard = (act: () => void): void => {
    if (socket.readyState !== socket.OPEN) return;
    try {
      act();
    } catch (error) {
      if (error instanceof InvalidMessage) endSocket(socket, error.code ?? invalid, error.message);
      else {
        onBug(error);
        endSocket(socket, closeCodes.serverError, 'an error of Berth');
      }
    }
  };
  socket.on('message', (data, isBinary) =>
    guard(() => {
      const take = isBinary ? binary : text;
      if (take === undefined) throw new InvalidMessage(isBinary ? 'messages are text' : 'messages are binary');
      // `binaryType` is what it is by default: one Buffer.
      take(data as Buffer);
    }),
  );
  socket.on('pong', (bytes) => guard(() => pong?.(bytes)));
  // The frames were wrong, or too big: `ws` closes the connection with the code for it.
  socket.on('error', () => undefined);
}

/** Closes a connection with as much of the reason as a close frame holds; `ws` throws where it is longer. */
export function endSocket(socket: Pick<WebSocket, 'close'>, code: number, reason: string): void {
  const bytes = Buffer.alloc(reasonBytes);
  const { written } = new TextEncoder().encodeInto(reason, bytes);
  socket.close(code, bytes.subarray(0, written));
}

interface Schema<T> {
  safeParse(value: unknown): { success: boolean; data?: T };
}

/** What a message in JSON says. InvalidMessage where it is none, or of another form. @param what of the reason, such as `a control message` */
export function parseMessage<T>(schema: Schema<T>, bytes: Uint8Array, what: string): T {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString());
  } catch {
    throw new InvalidMessage(`expected ${what}, found no JSON`);
  }
  const { success, data } = schema.safeParse(value);
  if (!success) throw new InvalidMessage(`expected ${what}, found other JSON`);
  return data as T;
}
