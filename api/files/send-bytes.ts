import type { Request, Response } from 'express';
import type { FileRecord } from '../../ledger/files/file-record.ts';
import { BerthError } from '../../model/errors.ts';
import type { ByteStore } from './byte-store.ts';

function describe(res: Response, file: FileRecord): void {
  // The file's name is the uploader's: it must not determine what a browser does with the bytes.
  res.attachment(file.name);
  res.setHeader('Content-Type', 'application/octet-stream');
  res.setHeader('ETag', `"${file.sha256}"`);
  res.setHeader('Repr-Digest', `sha-256=:${Buffer.from(file.sha256, 'hex').toString('base64')}:`);
}

function statusOf(error: unknown): number | null {
  const status = error instanceof Error && 'status' in error ? error.status : null;
  return typeof status === 'number' ? status : null;
}

/** Sends a file by Express' sendFile, which handles Range, If-Range, If-None-Match and HEAD; maps its errors to Berth's. */
export async function sendBytes(req: Request, res: Response, bytes: ByteStore, file: FileRecord): Promise<void> {
  describe(res, file);
  const sent = Promise.withResolvers<void>();
  const options = { dotfiles: 'allow', lastModified: false, cacheControl: false } as const;
  res.sendFile(bytes.path(file.id, file.sha256), options, (error) => {
    if (!error) return sent.resolve();
    const status = statusOf(error);
    if (status === 416) {
      res.setHeader('Content-Range', `bytes */${file.sizeBytes}`);
      const found = `Found Range: ${req.get('range')}; the file has ${file.sizeBytes} bytes`;
      return sent.reject(new BerthError('range-not-satisfiable', found));
    }
    if (status === 412) return sent.reject(new BerthError('precondition-failed', `The file's ETag is "${file.sha256}"`));
    // The row existed when this request read it: another request has deleted the file since.
    if (status === 404) return sent.reject(new BerthError('not-found', `There is no file ${file.id}`, { cause: error }));
    sent.reject(error);
  });
  await sent.promise;
}
