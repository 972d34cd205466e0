import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, constants, copyFile, open, readdir, rename, rm, stat, truncate } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { z } from 'zod';
import { BerthError } from '../../model/errors.ts';
import { qcow2Magic } from '../../model/input/disk-format.ts';
import { diskFullOr, exists, isErrno, syncFile } from '../host/files.ts';
import { ProcessError, type RunOptions, run } from '../host/run-process.ts';
import type { DiskTool, FlattenRequest } from '../ports/disk-tool.ts';
import { DataDisks, hasFiles } from './data-disks.ts';
import { readDiskHeader } from './disk-header.ts';
import { usualReadBudget } from './ext4/budget.ts';
import { createLister } from './ext4/lister.ts';
import { readListedFile } from './ext4/read-file.ts';

const overlayDeadlineMs = 30_000;
/** mkfs.ext4 -d copies the inputs: 40 MB in 0.2 s; a slow disk and 100 GB fit as well. */
const dataDiskDeadlineMs = 3600_000;

/** Disks as files. Each is written to a partial file beside its path and renamed, so that a file at its path is complete. */
export function openDiskTool(): DiskTool {
  const lister = createLister();
  const freshDisks = new DataDisks();
  return {
    exists,
    async createOverlay(path, backing, virtualMiB) {
      // qemu-img takes 20 ms for the same 200 KB every time: made once beside the image, then copied.
      const empty = join(dirname(backing), `empty-${virtualMiB}.qcow2`);
      if (!(await exists(empty)))
        await createAtomically(empty, async (partial) => {
          await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', backing, '-F', 'qcow2', partial, `${virtualMiB}M`], {
            deadlineMs: overlayDeadlineMs,
          });
        });
      await createAtomically(path, (partial) => copyFile(empty, partial, constants.COPYFILE_FICLONE));
    },
    async copyOverlay(path, from, virtualMiB) {
      await createAtomically(path, async (partial) => {
        try {
          await copyFile(from, partial, constants.COPYFILE_FICLONE);
        } catch (error) {
          if (!isErrno(error, 'ENOENT')) throw error;
          // Another VM's failure has retired the template meanwhile.
          throw new BerthError('hypervisor', `copying ${from}: the template was removed`, { cause: error });
        }
        await chmod(partial, 0o600);
        if ((await virtualBytes(partial, 'qcow2')) < virtualMiB * 2 ** 20)
          await run(['qemu-img', 'resize', '-q', '-f', 'qcow2', partial, `${virtualMiB}M`], { deadlineMs: overlayDeadlineMs });
      });
    },
    createEmpty: (path, sizeMiB) => createAtomically(path, (partial) => makeEmpty(partial, sizeMiB)),
    remove: (path) => rm(path, { force: true }),
    async createDataDisk(path, folder, sizeMiB) {
      const filled = await hasFiles(folder);
      await createAtomically(path, async (partial) => {
        if (!filled && (await freshDisks.write(partial, sizeMiB))) return;
        await makeEmpty(partial, sizeMiB);
        await makeFileSystem(partial, folder, sizeMiB);
        if (!filled) await freshDisks.keep(partial, sizeMiB);
      });
    },
    listFiles: (image, patterns, limitFiles, signal) =>
      lister.list({ image, patterns, budget: { ...usualReadBudget, files: limitFiles } }, signal),
    readFile: (image, file) => Readable.from(readListedFile(image, file), { objectMode: false }),
    inspect,
    async flatten(order, signal) {
      await removePartials(order.destination);
      await createAtomically(order.destination, (partial) => convert(order, partial, signal));
    },
    async readDisk(path) {
      const { size } = await stat(path);
      return { sizeBytes: size, content: createReadStream(path, { highWaterMark: 2 ** 20 }) };
    },
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
    if (bytesRead < 32 || buffer.readUInt32BE(0) !== qcow2Magic) throw new Error(`BUG: ${path} is no qcow2 file`);
    return Number(buffer.readBigUInt64BE(24));
  } finally {
    await file.close();
  }
}

const mib = 2 ** 20;

/** Our own parser decides; QEMU's, which is given the format, has to agree. */
async function inspect(path: string, limitMiB: number): Promise<{ format: 'qcow2' | 'raw'; virtualMiB: number }> {
  const file = await open(path, 'r');
  try {
    const read = async (offset: number, length: number): Promise<Buffer> => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
      return buffer.subarray(0, bytesRead);
    };
    const { format, virtualBytes } = await readDiskHeader(read, (await file.stat()).size, limitMiB * mib);
    await verifyWithQemu(path, format, virtualBytes);
    return { format, virtualMiB: Math.ceil(virtualBytes / mib) };
  } finally {
    await file.close();
  }
}

const infoSchema = z.looseObject({ 'virtual-size': z.number() });
/** Keys of `qemu-img info` for references to other files and for hidden content. */
const refusedInfoKeys = ['backing-filename', 'full-backing-filename', 'backing-image', 'encrypted', 'snapshots'];

async function verifyWithQemu(path: string, format: string, virtualBytes: number): Promise<void> {
  const text = await runWithLimits(
    { memoryMiB: 1024, cpuS: 10, fileMiB: 1 },
    ['qemu-img', 'info', '-f', format, '--output=json', path],
    {
      deadlineMs: 30_000,
    },
  );
  const info = infoSchema.parse(JSON.parse(text));
  const found = refusedInfoKeys.find((key) => info[key] !== undefined && info[key] !== false);
  if (found !== undefined || info['virtual-size'] !== virtualBytes)
    throw new BerthError(
      'image-refused',
      `Taking an uploaded disk: QEMU's reading of it differs from Berth's (${found ?? 'size'})`,
    );
}

/** qcow2's tables take far less than an eighth of the virtual size. */
async function convert({ source, format, limitMiB }: FlattenRequest, destination: string, signal: AbortSignal): Promise<void> {
  const limits = { memoryMiB: 2048, cpuS: 3600, fileMiB: limitMiB + Math.ceil(limitMiB / 8) + 16 };
  const argv = ['qemu-img', 'convert', '-q', '-f', format, '-O', 'qcow2', source, destination] as const;
  await runWithLimits(limits, argv, { deadlineMs: convertDeadlineMs(limitMiB), signal });
  await syncFile(destination);
}

/** 4 MiB/s is slower than any host's disk. */
const convertDeadlineMs = (limitMiB: number): number => 60_000 + limitMiB * 250;

interface ResourceLimits {
  memoryMiB: number;
  cpuS: number;
  fileMiB: number;
}

/** Runs a program that reads untrusted bytes, with limits on what it may use. */
async function runWithLimits(limits: ResourceLimits, argv: readonly [string, ...string[]], options: RunOptions): Promise<string> {
  const { memoryMiB, cpuS, fileMiB } = limits;
  const prlimits = [`--as=${memoryMiB * mib}`, `--cpu=${cpuS}`, `--fsize=${fileMiB * mib}`, '--core=0'];
  try {
    return await run(['prlimit', ...prlimits, ...argv], options);
  } catch (error) {
    if (!(error instanceof ProcessError) || error.why === 'absent' || /No space left/.test(error.stderr)) throw error;
    const reason = error.why === 'deadline' ? 'it took too long' : error.stderr.trim().split('\n').at(-1);
    throw new BerthError('image-refused', `Reading the disk of an image: ${reason}`, { cause: error });
  }
}

async function createAtomically(path: string, make: (partial: string) => Promise<void>): Promise<void> {
  const partial = `${path}.${randomBytes(6).toString('hex')}.partial`;
  try {
    await make(partial);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw mapDiskFull(error, path);
  }
}

/** The partial file of a killed attempt may be as large as the disk; the next attempt must not need the space twice. */
async function removePartials(path: string): Promise<void> {
  const partials = (await readdir(dirname(path))).filter(
    (name) => name.startsWith(`${basename(path)}.`) && name.endsWith('.partial'),
  );
  for (const name of partials) await rm(join(dirname(path), name), { force: true });
}

function mapDiskFull(error: unknown, path: string): unknown {
  if (error instanceof ProcessError && /No space left on device/.test(error.stderr))
    return new BerthError('disk-full', `making ${path}: ${error.message}`, { cause: error });
  return diskFullOr(error, `making ${path}`);
}

/** The image is a new sparse file: nothing in it needs to be zeroed, neither now nor later by the guest's kernel. */
const features = 'assume_storage_prezeroed=1,root_owner=0:0';

/** `-m 0`: no blocks are reserved for root, because the command runs as root. */
async function makeFileSystem(image: string, folder: string, sizeMiB: number): Promise<void> {
  try {
    await run(['mkfs.ext4', '-q', '-F', '-m', '0', '-E', features, '-d', folder, image], {
      deadlineMs: dataDiskDeadlineMs,
      env: { PATH: process.env.PATH ?? '', LC_ALL: 'C' },
    });
  } catch (error) {
    // mke2fs's messages for an image without free blocks or inodes; ENOSPC is the host's own disk.
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
