import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ErrorCode } from '../../model/errors.ts';

/** Bounds on a JSON body, checked on its bytes before anything is made of them. The largest request has some 6,000 values. */
export const jsonBounds = { depth: 32, values: 20_000 } as const;

const [quote, backslash, comma, colon] = [...Buffer.from('"\\,:')] as [number, number, number, number];
const opens = new Set(Buffer.from('[{'));
const closes = new Set(Buffer.from(']}'));

/** How deep a JSON text nests and how many values and names it has, at most; of a text that is no JSON anything. */
function measure(text: Uint8Array): { depth: number; values: number } {
  let [depth, deepest, values, inString] = [0, 0, 1, false];
  for (let i = 0; i < text.length; i += 1) {
    const byte = text[i]!;
    if (inString) {
      if (byte === backslash) i += 1;
      else if (byte === quote) inString = false;
    } else if (byte === quote) inString = true;
    else if (opens.has(byte)) {
      depth += 1;
      values += 1;
      deepest = Math.max(deepest, depth);
    } else if (closes.has(byte)) depth -= 1;
    else if (byte === comma || byte === colon) values += 1;
  }
  return { depth: deepest, values };
}

/** By the `type` of the error, as for those of the body's parser: problem.ts answers them. */
export const jsonBoundErrors: Record<string, { code: ErrorCode; message: string }> = {
  'json.too-deep': { code: 'bad-request', message: `The body nests more than ${jsonBounds.depth} deep` },
  'json.too-many-values': { code: 'too-large', message: `The body has more than ${jsonBounds.values} values; split the request` },
};

/**
 * `verify` of express.json: parsing, checking and describing a body takes time for each of its values. Throws plain errors,
 * because the parser writes its own status into what is thrown.
 */
export function refuseUnboundedJson(_req: IncomingMessage, _res: ServerResponse, body: Buffer): void {
  const { depth, values } = measure(body);
  if (depth > jsonBounds.depth) throw Object.assign(new Error('too deep'), { type: 'json.too-deep' });
  if (values > jsonBounds.values) throw Object.assign(new Error('too many values'), { type: 'json.too-many-values' });
}
