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

/** Which of a request's texts can't be in its frame, and why; null: they fit. */
export function textsProblem({ folder, env, argv }: StreamRequest): { of: 'command' | 'env'; why: string } | null {
  const hasNul = (text: string): boolean => text.includes('\0');
  const nul = 'a NUL character, which ends a text';
  if (argv.some(hasNul) || hasNul(folder)) return { of: 'command', why: nul };
  if (env.some(hasNul)) return { of: 'env', why: nul };
  if ((argv[0] ?? '') === '') return { of: 'command', why: 'no program' };
  const count = 2 + env.length + argv.length;
  const charsOf = (texts: string[]): number => texts.join().length;
  const of = charsOf(env) > charsOf(argv) ? 'env' : 'command';
  if (count > textsCount)
    return { of, why: `${argv.length} arguments and ${env.length} variables, of at most ${textsCount - 2} together` };
  const bytes = encodeTexts({ folder, env, argv }).length;
  return bytes > textsBytes ? { of, why: `${bytes} bytes with the environment, of at most ${textsBytes}` } : null;
}

const encodeTexts = ({ folder, env, argv }: Pick<StreamRequest, 'folder' | 'env' | 'argv'>): Buffer =>
  Buffer.from([folder, String(env.length), ...env, ...argv].map((text) => `${text}\0`).join(''));

export function encodeHostFrame(session: string, frame: HostFrame): Buffer {
  switch (frame.type) {
    case 'open': {
      const { kind, size, timeoutS } = frame.request;
      const problem = textsProblem(frame.request);
      if (problem !== null) throw new Error(`BUG: a request without bounds: ${problem.why}`);
      const fields = numbers([size.rows, 2], [size.cols, 2], [timeoutS, 4]);
      return body('O', session, Buffer.from(kinds[kind]), fields, encodeTexts(frame.request));
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

/** The numbers of a frame of the API, which it has at least. */
const numbersBytes: Record<string, number> = { O: 9, A: 8, I: 8, E: 8, R: 4, S: 5, K: 8 };

/** A frame of the API, as far as what takes a guest's place needs it; null for any other. */
export function parseHostFrame(bytes: Uint8Array): HostFrame | null {
  if (bytes.length < headerBytes || bytes.length > bodyBytes) return null;
  const rest = Buffer.from(bytes.buffer, bytes.byteOffset + headerBytes, bytes.length - headerBytes);
  const type = String.fromCharCode(bytes[0] ?? 0);
  if (rest.length < (numbersBytes[type] ?? 0)) return null;
  switch (type) {
    case 'O': {
      const [folder = '', count = '0', ...texts] = rest.subarray(9).toString().split('\0').slice(0, -1);
      const kind = (Object.keys(kinds) as (keyof typeof kinds)[]).find((one) => kinds[one] === String.fromCharCode(rest[0] ?? 0));
      if (kind === undefined) return null;
      const size = { rows: rest.readUInt16LE(1), cols: rest.readUInt16LE(3) };
      const [env, argv] = [texts.slice(0, Number(count)), texts.slice(Number(count))];
      const request = { kind, size, timeoutS: rest.readUInt32LE(5), folder, env, argv };
      return textsProblem(request) === null ? { type: 'open', request } : null;
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
