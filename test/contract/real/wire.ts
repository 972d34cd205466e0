import { Readable } from 'node:stream';

/**
 * The format of calls between the two sides, JSON: besides plain data, bytes, maps, signals that never abort, and callbacks,
 * which always return false on the far side.
 */
const bytes = '$bytes';
const entries = '$map';
const words = { signal: '$signal', no: '$no' };

export function pack(value: unknown): string {
  return JSON.stringify(marked(value));
}

function marked(value: unknown): unknown {
  if (value instanceof Uint8Array) return { [bytes]: Buffer.from(value).toString('base64') };
  if (value instanceof Map) return { [entries]: marked([...value]) };
  if (value instanceof AbortSignal) return words.signal;
  if (typeof value === 'function') return words.no;
  if (Array.isArray(value)) return value.map(marked);
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, marked(item)]));
  return value;
}

export function unpack(text: string): unknown {
  return JSON.parse(text, (_, value: unknown) => {
    if (value === words.signal) return new AbortController().signal;
    if (value === words.no) return async () => false;
    if (typeof value === 'object' && value !== null && entries in value) return new Map(value[entries] as [unknown, unknown][]);
    if (typeof value === 'object' && value !== null && bytes in value) return Buffer.from(String(value[bytes]), 'base64');
    return value;
  });
}

/** The bytes of a stream; every other value as it is. */
export async function drainStream(value: unknown): Promise<unknown> {
  if (!(value instanceof Readable)) return value;
  const chunks: Buffer[] = [];
  for await (const chunk of value as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}
