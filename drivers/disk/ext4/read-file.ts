import { type FileHandle, open } from 'node:fs/promises';
import { BerthError } from '../../../model/errors.ts';
import type { DiskFile } from '../../ports/disk-tool.ts';

const chunkBytes = 1024 * 1024;
const zeroes = Buffer.alloc(chunkBytes);

/** The content of a listed file, exactly its `sizeBytes`. Only runs are read of the image; between them are zeros. */
export async function* readListedFile(path: string, file: DiskFile): AsyncGenerator<Buffer> {
  const image = await open(path, 'r');
  try {
    let position = 0;
    for (let index = 0; index < file.runs.length; index += 3) {
      const [at = 0, bytes = 0, from = 0] = file.runs.slice(index, index + 3);
      yield* holeOf(at - position);
      yield* readRun(image, file, from, bytes);
      position = at + bytes;
    }
    yield* holeOf(file.sizeBytes - position);
  } finally {
    await image.close();
  }
}

async function* readRun(image: FileHandle, file: DiskFile, from: number, bytes: number): AsyncGenerator<Buffer> {
  for (let done = 0; done < bytes; done += chunkBytes) {
    const length = Math.min(chunkBytes, bytes - done);
    const buffer = Buffer.allocUnsafe(length);
    const { bytesRead } = await image.read(buffer, 0, length, from + done);
    if (bytesRead !== length)
      throw new BerthError(
        'outputs-refused',
        `reading ${JSON.stringify(file.path)} of the data disk: it ends before its content`,
      );
    yield buffer;
  }
}

function* holeOf(bytes: number): Generator<Buffer> {
  for (let left = bytes; left > 0; left -= chunkBytes) yield left >= chunkBytes ? zeroes : zeroes.subarray(0, left);
}
