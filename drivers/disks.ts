import { randomBytes } from 'node:crypto';
import { chmod, constants, copyFile, open, rename, rm, stat, truncate } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { BerthError } from '../model/errors.ts';
import { listExt4, readExt4 } from './ext4.ts';
import { diskFullOr, exists, isErrno } from './files.ts';
import type { DiskTool } from './ports.ts';
import { ProcessError, run } from './process.ts';

const overlayDeadlineMs = 30_000;
/** mkfs.ext4 -d copies the inputs: 40 MB in 0.2 s; a slow disk and 100 GB fit as well. */
const dataDiskDeadlineMs = 3600_000;

/** Disks as files. Makers write beside the place and rename, so that what is in its place is complete. */
export function openDiskTool(): DiskTool {
  return {
    exists,
    async createOverlay(path, backing, virtualMiB) {
      // qemu-img takes 20 ms to write the same 200 KB every time: made once beside the image, then copied.
      const empty = join(dirname(backing), `empty-${virtualMiB}.qcow2`);
      if (!(await exists(empty)))
        await inPlace(empty, async (partial) => {
          await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', backing, '-F', 'qcow2', partial, `${virtualMiB}M`], {
            deadlineMs: overlayDeadlineMs,
          });
        });
      await inPlace(path, (partial) => copyFile(empty, partial, constants.COPYFILE_FICLONE));
    },
    async copyOverlay(path, from, virtualMiB) {
      await inPlace(path, async (partial) => {
        try {
          await copyFile(from, partial, constants.COPYFILE_FICLONE);
        } catch (error) {
          if (!isErrno(error, 'ENOENT')) throw error;
          // Retired by a sibling in this very moment.
          throw new BerthError('hypervisor', `copying ${from}: the template is gone`, { cause: error });
        }
        await chmod(partial, 0o600);
        if ((await virtualBytes(partial, 'qcow2')) < virtualMiB * 2 ** 20)
          await run(['qemu-img', 'resize', '-q', '-f', 'qcow2', partial, `${virtualMiB}M`], { deadlineMs: overlayDeadlineMs });
      });
    },
    createEmpty: (path, sizeMiB) => inPlace(path, (partial) => makeEmpty(partial, sizeMiB)),
    remove: (path) => rm(path, { force: true }),
    createDataDisk: (path, folder, sizeMiB) =>
      inPlace(path, async (partial) => {
        await makeEmpty(partial, sizeMiB);
        await makeFileSystem(partial, folder, sizeMiB);
      }),
    async listFiles(image, limitFiles) {
      const file = await open(image, 'r');
      try {
        return await listExt4(file, limitFiles);
      } finally {
        await file.close();
      }
    },
    readFile: (image, file) =>
      Readable.from(
        (async function* () {
          const handle = await open(image, 'r');
          try {
            yield* readExt4(handle, file);
          } finally {
            await handle.close();
          }
        })(),
        { objectMode: false },
      ),
  };
}

async function makeEmpty(path: string, sizeMiB: number): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  await file.close();
  await truncate(path, sizeMiB * 2 ** 20);
}

/** The size that a guest sees of a disk (for qcow2: docs/interop/qcow2.txt in QEMU's source, bytes 24 to 31). */
export async function virtualBytes(path: string, format: 'qcow2' | 'raw'): Promise<number> {
  if (format === 'raw') return (await stat(path)).size;
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(32), 0, 32, 0);
    if (bytesRead < 32 || buffer.readUInt32BE(0) !== 0x514649fb) throw new Error(`BUG: ${path} is no qcow2 file`);
    return Number(buffer.readBigUInt64BE(24));
  } finally {
    await file.close();
  }
}

async function inPlace(path: string, make: (partial: string) => Promise<void>): Promise<void> {
  const partial = `${path}.${randomBytes(6).toString('hex')}.partial`;
  try {
    await make(partial);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw full(error, path);
  }
}

function full(error: unknown, path: string): unknown {
  if (error instanceof ProcessError && /No space left on device/.test(error.stderr))
    return new BerthError('disk-full', `making ${path}: ${error.message}`, { cause: error });
  return diskFullOr(error, `making ${path}`);
}

/** The image is a new sparse file, so that nothing in it need be zeroed, now or by the guest's kernel later. */
const features = 'assume_storage_prezeroed=1,root_owner=0:0';

/** Nothing is held back for root: the command is root. */
async function makeFileSystem(image: string, folder: string, sizeMiB: number): Promise<void> {
  try {
    await run(['mkfs.ext4', '-q', '-F', '-m', '0', '-E', features, '-d', folder, image], {
      deadlineMs: dataDiskDeadlineMs,
      env: { PATH: process.env.PATH ?? '', LC_ALL: 'C' },
    });
  } catch (error) {
    // In mke2fs's words: no block or inode left in the image, as against the host's own ENOSPC.
    if (error instanceof ProcessError && /Could not allocate|too small|not enough space/i.test(error.stderr))
      throw new BerthError(
        'inputs-too-large',
        `the inputs do not fit into a data disk of ${sizeMiB} MiB; ask for a larger diskMiB`,
        {
          cause: error,
        },
      );
    throw error;
  }
}
