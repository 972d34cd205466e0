import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type Dispatcher, request } from 'undici';
import type { ImageSource } from '../../contracts/host.ts';
import { BerthError } from '../../model/errors.ts';
import type { Logger } from '../../model/log.ts';
import type { ContentRef, ImageRef } from '../../model/vm.ts';
import { isErrno, syncFile, writeStream } from '../host/files.ts';
import { ProcessError } from '../host/run-process.ts';
import { copyOverNfs } from './nfs-copy.ts';
import { isRightRefused, rightRefused } from './repository-right.ts';

export interface ImageTransferOptions {
  /** The host's folder; images/ and staging/ are in it, and in that of the peers, which export theirs over NFS. */
  root: string;
  repository: Dispatcher;
  log: Logger;
}

/** Smallest first: a missing image is noticed early. */
export const partNames = { initrd: 'initrd', kernel: 'kernel', disk: 'disk.qcow2' } as const;
type Part = keyof typeof partNames;
const parts = Object.keys(partNames) as Part[];

/** The parts of an image, in the order of `partNames`. */
export function partsOf({ parts: blobs }: ImageRef): { part: Part; blob: ContentRef }[] {
  return parts.flatMap((part) => {
    const blob = blobs[part];
    return blob === null ? [] : [{ part, blob }];
  });
}

const bodyTimeoutMs = 60_000;

/** Fetches all parts from the nearest peer that has them, else from the repository, and verifies their digests. */
export async function fetchParts(options: ImageTransferOptions, image: ImageRef, folder: string): Promise<ImageSource> {
  for (const peer of image.peers) {
    try {
      for (const { part, blob } of partsOf(image))
        await fetchPartFromPeer(options, image, part, blob, peer, join(folder, partNames[part]));
      return 'peer';
    } catch (error) {
      if (!(error instanceof ProcessError) && !(error instanceof BerthError && error.code === 'image-damaged')) throw error;
      options.log.warn({ peer, image: image.id, error: error.message }, 'a peer could not give an image');
    }
  }
  for (const { part, blob } of partsOf(image)) await fetchPartFromRepository(options, image, blob, join(folder, partNames[part]));
  return 'repository';
}

async function fetchPartFromPeer(
  { root }: ImageTransferOptions,
  image: ImageRef,
  part: Part,
  blob: ContentRef,
  peer: string,
  destination: string,
): Promise<void> {
  const path = join(root, 'images', image.id, partNames[part]);
  await copyOverNfs({ address: peer, path, destination, sizeBytes: blob.sizeBytes });
  await verify(image, blob, destination);
}

/** nfs-cp doesn't verify: the bytes on this disk are read again. */
async function verify(image: ImageRef, blob: ContentRef, path: string): Promise<void> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer);
  requireDigest(image, blob, hash.digest('hex'), path);
  await syncFile(path);
}

function requireDigest(image: ImageRef, blob: ContentRef, found: string, path: string): void {
  if (found !== blob.sha256)
    throw new BerthError(
      'image-damaged',
      `fetching image ${image.name}: ${basename(path)} has sha256 ${found}, not ${blob.sha256}; it was not kept`,
    );
}

async function fetchPartFromRepository(
  { repository }: ImageTransferOptions,
  image: ImageRef,
  blob: ContentRef,
  destination: string,
): Promise<void> {
  const hash = createHash('sha256');
  const file = await open(destination, 'w', 0o644);
  try {
    let bytes = 0;
    await writeStream(file, await download(repository, image, blob), (chunk) => {
      bytes += chunk.length;
      if (bytes > blob.sizeBytes)
        throw new BerthError('image-damaged', `fetching image ${image.name}: more than ${blob.sizeBytes} bytes`);
      hash.update(chunk);
    });
    await file.sync();
  } catch (error) {
    if (error instanceof BerthError || isErrno(error, 'ENOSPC', 'EDQUOT', 'EIO', 'EROFS')) throw error;
    throw new BerthError('repository-unavailable', `fetching image ${image.name}: ${String(error)}`, { cause: error });
  } finally {
    await file.close();
  }
  requireDigest(image, blob, hash.digest('hex'), destination);
}

async function download(dispatcher: Dispatcher, image: ImageRef, blob: ContentRef): Promise<AsyncIterable<Buffer>> {
  const { statusCode, body } = await request(blob.url, { dispatcher, headersTimeout: bodyTimeoutMs, bodyTimeout: bodyTimeoutMs });
  if (statusCode === 200) return body;
  await body.dump();
  if (isRightRefused(statusCode)) throw rightRefused(`fetching image ${image.name}`, statusCode);
  throw new BerthError('repository-unavailable', `fetching image ${image.name}: the repository answered ${statusCode}`);
}
