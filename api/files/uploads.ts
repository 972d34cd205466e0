import type { Request, Response } from 'express';
import { BerthError } from '../../model/errors.ts';
import { expectBody } from '../serve.ts';

/** The body of an upload as the repository takes it. */
export interface IncomingBytes {
  /** From Content-Length; null when the body comes in chunks. */
  announcedBytes: number | null;
  /** The SHA-256 of the bytes according to the sender, in hexadecimal. */
  expectedSha256: string | null;
  body: AsyncIterable<Uint8Array>;
}

/** `sha-256=:<base64>:` of RFC 9530, in hexadecimal; null without that header or algorithm. */
function digestHeader(req: Request, name: 'Repr-Digest' | 'Content-Digest'): string | null {
  const text = req.get(name);
  if (text === undefined) return null;
  const match = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):/.exec(text);
  if (match) return Buffer.from(match[1]!, 'base64').toString('hex');
  if (!/(?:^|,)\s*sha-256=/.test(text)) return null;
  throw new BerthError('bad-request', `The ${name} is not valid`, {
    fields: [{ pointer: `header.${name}`, detail: `found ${JSON.stringify(text.slice(0, 80))}; expected sha-256=:<base64>:` }],
  });
}

function refuseEncoded(req: Request): void {
  if (req.is('multipart/*')) {
    throw new BerthError('unsupported-media-type', 'Found a multipart form; send the bytes alone (curl --data-binary @file)');
  }
  const encoding = req.get('content-encoding');
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw new BerthError('unsupported-media-type', `Found Content-Encoding ${encoding}; send the bytes as they are to be kept`);
  }
}

/** @param sha256 from the query, in hexadecimal; takes precedence over the headers. */
export function readUpload(req: Request, res: Response, sha256: string | undefined): IncomingBytes {
  refuseEncoded(req);
  const length = req.get('content-length');
  async function* body(): AsyncIterable<Uint8Array> {
    expectBody(req, res);
    // Not destroyed when reading stops early, so that the refusal can still be answered.
    yield* req.iterator({ destroyOnReturn: false });
  }
  return {
    announcedBytes: length === undefined ? null : Number(length),
    expectedSha256: sha256 ?? digestHeader(req, 'Repr-Digest') ?? digestHeader(req, 'Content-Digest'),
    body: body(),
  };
}
