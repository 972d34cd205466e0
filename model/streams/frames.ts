/**
 * The frames between the program in a guest that runs sessions (infra/guest/stream.c, which describes them) and the API: the host
 * worker between them passes bodies on. Numbers are little-endian. A guest controls what it sends, so every body is checked.
 */

/** What the program keeps of a session's output, to send it again. */
export const replayBytes = 2 ** 20;
/** By how much the guest's output may be ahead of what the client has confirmed. */
export const outputWindowBytes = 256 * 1024;
/** By how much the client's input may be ahead of what the command has read. */
export const inputWindowBytes = 64 * 1024;
/** Of the bytes in one frame. */
export const payloadBytes = 16 * 1024;
export const bodyBytes = payloadBytes + 64;
/** Sessions that one guest has at a time. */
export const guestSessions = 32;
/** After which a guest ends a session that nobody is attached to. */
export const forgottenMs = 10 * 60_000;
/** Of the folder, the environment and the arguments of one session, in one frame. */
export const textsBytes = 12 * 1024;
export const textsCount = 250;

export interface TerminalSize {
  rows: number;
  cols: number;
}

/** A command, or a connection to a port of the guest. */
export interface StreamRequest {
  kind: 'pipes' | 'terminal' | 'connection';
  size: TerminalSize;
  /** 0: no limit. */
  timeoutS: number;
  folder: string;
  env: string[];
  argv: string[];
}

export type HostFrame =
  | { type: 'open'; request: StreamRequest }
  | { type: 'attach'; after: number }
  | { type: 'input'; at: number; bytes: Uint8Array }
  | { type: 'inputEnd'; at: number }
  | { type: 'resize'; size: TerminalSize }
  | { type: 'signal'; number: number; signal: number }
  | { type: 'confirm'; at: number }
  | { type: 'close' }
  | { type: 'detach' };

export const refusals = ['unknown', 'tooMany', 'lostOutput', 'notStarted', 'badRequest'] as const;
export type Refusal = (typeof refusals)[number];

export type GuestFrame =
  /** `input`: what the command has read; `first`, `last`: the output that the guest has. */
  | { type: 'attached'; input: number; signals: number; first: number; last: number }
  | { type: 'refused'; why: Refusal }
  | { type: 'output'; at: number; channel: 1 | 2; bytes: Uint8Array }
  | { type: 'read'; at: number }
  | { type: 'ended'; at: number; how: 'exited' | 'signalled' | 'timedOut'; code: number };

const kinds = { pipes: 'p', terminal: 't', connection: 'c' } as const;
const hows = { e: 'exited', s: 'signalled', t: 'timedOut' } as const;

const sessionPattern = /^[0-9a-f]{32}$/;
export const isSession = (text: string): boolean => sessionPattern.test(text);

/** A header and a session's id, and then `rest`. */
function body(type: string, session: string, ...rest: Uint8Array[]): Buffer {
  if (!isSession(session)) throw new Error(`BUG: ${session} names no session`);
  return Buffer.concat([Buffer.from(type), Buffer.from(session, 'hex'), ...rest]);
}

function numbers(...list: [value: number, size: 1 | 2 | 4 | 8][]): Buffer {
  const bytes = Buffer.alloc(list.reduce((sum, [, size]) => sum + size, 0));
  let at = 0;
  for (const [value, size] of list) {
    if (size === 8) bytes.writeBigUInt64LE(BigInt(value), at);
    else bytes.writeUIntLE(value, at, size);
    at += size;
  }
  return bytes;
}

/** The texts of a request, as one frame has them; null where they are too many or too long. */
export function textsOf({ folder, env, argv }: StreamRequest): Buffer | null {
  const texts = [folder, String(env.length), ...env, ...argv];
  if (texts.length > textsCount || argv.length === 0 || texts.some((text) => text.includes('\0'))) return null;
  const bytes = Buffer.from(texts.map((text) => `${text}\0`).join(''));
  return bytes.length > textsBytes ? null : bytes;
}

export function encodeHostFrame(session: string, frame: HostFrame): Buffer {
  switch (frame.type) {
    case 'open': {
      const { kind, size, timeoutS } = frame.request;
      const texts = textsOf(frame.request);
      if (texts === null) throw new Error('BUG: a request without bounds');
      return body('O', session, Buffer.from(kinds[kind]), numbers([size.rows, 2], [size.cols, 2], [timeoutS, 4]), texts);
    }
    case 'attach':
      return body('A', session, numbers([frame.after, 8]));
    case 'input':
      return body('I', session, numbers([frame.at, 8]), frame.bytes);
    case 'inputEnd':
      return body('E', session, numbers([frame.at, 8]));
    case 'resize':
      return body('R', session, numbers([frame.size.rows, 2], [frame.size.cols, 2]));
    case 'signal':
      return body('S', session, numbers([frame.number, 4], [frame.signal, 1]));
    case 'confirm':
      return body('K', session, numbers([frame.at, 8]));
    case 'close':
      return body('C', session);
    case 'detach':
      return body('D', session);
  }
}

const headerBytes = 17;

/** The session that a body belongs to; null where it has none. */
export function sessionOf(bytes: Uint8Array): string | null {
  return bytes.length < headerBytes ? null : Buffer.from(bytes.buffer, bytes.byteOffset + 1, 16).toString('hex');
}

/** An offset; null where it is none that a session can have. */
function offset(rest: Buffer, at: number): number | null {
  const value = rest.readBigUInt64LE(at);
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(value);
}

/** A frame of a guest; null for what is none. */
export function parseGuestFrame(bytes: Uint8Array): GuestFrame | null {
  if (bytes.length < headerBytes || bytes.length > bodyBytes) return null;
  const rest = Buffer.from(bytes.buffer, bytes.byteOffset + headerBytes, bytes.length - headerBytes);
  switch (String.fromCharCode(bytes[0] ?? 0)) {
    case 'a': {
      if (rest.length !== 28) return null;
      const [input, first, last] = [offset(rest, 0), offset(rest, 12), offset(rest, 20)];
      if (input === null || first === null || last === null || first > last) return null;
      return { type: 'attached', input, signals: rest.readUInt32LE(8), first, last };
    }
    case 'n': {
      const why = rest.length === 1 ? refusals[(rest[0] ?? 0) - 1] : undefined;
      return why === undefined ? null : { type: 'refused', why };
    }
    case 'o': {
      const at = rest.length > 9 ? offset(rest, 0) : null;
      const channel = rest[8];
      if (at === null || (channel !== 1 && channel !== 2)) return null;
      return { type: 'output', at, channel, bytes: rest.subarray(9) };
    }
    case 'i': {
      const at = rest.length === 8 ? offset(rest, 0) : null;
      return at === null ? null : { type: 'read', at };
    }
    case 'x': {
      const at = rest.length === 13 ? offset(rest, 0) : null;
      const how = hows[String.fromCharCode(rest[8] ?? 0) as keyof typeof hows];
      if (at === null || how === undefined) return null;
      const code = rest.readUInt32LE(9);
      return code > 255 ? null : { type: 'ended', at, how, code };
    }
    default:
      return null;
  }
}

/** A guest's frame as bytes: of what takes a guest's place. */
export function encodeGuestFrame(session: string, frame: GuestFrame): Buffer {
  switch (frame.type) {
    case 'attached':
      return body('a', session, numbers([frame.input, 8], [frame.signals, 4], [frame.first, 8], [frame.last, 8]));
    case 'refused':
      return body('n', session, numbers([refusals.indexOf(frame.why) + 1, 1]));
    case 'output':
      return body('o', session, numbers([frame.at, 8], [frame.channel, 1]), frame.bytes);
    case 'read':
      return body('i', session, numbers([frame.at, 8]));
    case 'ended': {
      const how = Object.entries(hows).find(([, name]) => name === frame.how)?.[0] ?? 'e';
      return body('x', session, numbers([frame.at, 8]), Buffer.from(how), numbers([frame.code, 4]));
    }
  }
}

/** A frame of the API, as far as what takes a guest's place needs it; null for any other. */
export function parseHostFrame(bytes: Uint8Array): HostFrame | null {
  if (bytes.length < headerBytes) return null;
  const rest = Buffer.from(bytes.buffer, bytes.byteOffset + headerBytes, bytes.length - headerBytes);
  switch (String.fromCharCode(bytes[0] ?? 0)) {
    case 'O': {
      const [folder = '', count = '0', ...texts] = rest.subarray(9).toString().split('\0').slice(0, -1);
      const kind = (Object.keys(kinds) as (keyof typeof kinds)[]).find((one) => kinds[one] === String.fromCharCode(rest[0] ?? 0));
      if (kind === undefined) return null;
      const size = { rows: rest.readUInt16LE(1), cols: rest.readUInt16LE(3) };
      const [env, argv] = [texts.slice(0, Number(count)), texts.slice(Number(count))];
      return { type: 'open', request: { kind, size, timeoutS: rest.readUInt32LE(5), folder, env, argv } };
    }
    case 'A':
      return { type: 'attach', after: offset(rest, 0) ?? 0 };
    case 'I':
      return { type: 'input', at: offset(rest, 0) ?? 0, bytes: rest.subarray(8) };
    case 'E':
      return { type: 'inputEnd', at: offset(rest, 0) ?? 0 };
    case 'R':
      return { type: 'resize', size: { rows: rest.readUInt16LE(0), cols: rest.readUInt16LE(2) } };
    case 'S':
      return { type: 'signal', number: rest.readUInt32LE(0), signal: rest[4] ?? 0 };
    case 'K':
      return { type: 'confirm', at: offset(rest, 0) ?? 0 };
    case 'C':
      return { type: 'close' };
    case 'D':
      return { type: 'detach' };
    default:
      return null;
  }
}
