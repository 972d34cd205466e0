import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat, statfs, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { consoleSpan } from '../../model/console.ts';
import { isId, type VmId } from '../../model/ids.ts';
import { coldBootReasons } from '../../model/vm.ts';
import type { VmPaths, VmRecord, VmStore } from '../ports/vm-store.ts';
import { exists, isErrno, makeFolder, readText, replaceAtomically, replaceDurably, syncFile, syncFolder } from './files.ts';

const millis = z.int().min(0);
const recordSchema = z.strictObject({
  vmId: z.string().refine((text): text is VmId => isId('vm', text)),
  generation: z.int().min(0),
  image: z.string().refine((text): text is VmRecord['image'] => isId('image', text)),
  vni: z
    .int()
    .min(1)
    .max(2 ** 24 - 1),
  staged: z.strictObject({ bytes: z.number() }).nullable(),
  ready: z.strictObject({ createMs: millis, bootMs: millis, sinceMs: millis }).nullable(),
  jobStartedMs: millis.nullable(),
  boot: z
    .union([
      z.strictObject({ kind: z.literal('warm') }),
      z.strictObject({ kind: z.literal('cold'), why: z.enum(coldBootReasons) }),
    ])
    .nullable()
    .default(null),
  // A record of before there were templates may have a guest's work on its disk.
  identityApplied: z.boolean().default(true),
  flushed: z.boolean(),
  removing: z.boolean(),
  // Not in records of before there were migrations.
  departureGeneration: z.int().min(0).nullable().default(null),
  // Nor in those of before VMs could be suspended.
  suspended: z.strictObject({ sinceMs: millis, complete: z.boolean() }).nullable().default(null),
  pausedSinceMs: millis.nullable().default(null),
  idleMs: millis.default(0),
  // Not in records of before disks followed their VMs.
  disksLocal: z.boolean().default(false),
});

/** How long a removed VM is remembered: longer than any attempt at it can still be under way. */
const removedRetentionMs = 24 * 3600 * 1000;

/** Folders of VMs under `root`: vms/<id>/, removed/<id>, quarantine/<id>/, and staging/ for what is on its way out. */
export function openVmStore(root: string): VmStore {
  const vms = join(root, 'vms');
  const removed = join(root, 'removed');
  const quarantine = join(root, 'quarantine');
  const staging = join(root, 'staging');

  /** Ids come from the ledger or from this folder; either way they become part of a path only when they are one word. */
  const checkedPath = (folder: string, vmId: string): string => {
    if (!/^[A-Za-z0-9_-]{1,96}$/.test(vmId)) throw new Error(`BUG: ${JSON.stringify(vmId)} can't name a folder`);
    return join(folder, vmId);
  };
  const paths = (vmId: string): VmPaths => {
    const folder = checkedPath(vms, vmId);
    return {
      folder,
      overlay: join(folder, 'disk.qcow2'),
      data: join(folder, 'data.raw'),
      console: join(folder, 'console.log'),
      identitySocket: join(folder, 'identity'),
      inputs: join(folder, 'inputs'),
      memory: join(folder, 'memory.save'),
      memoryPartial: join(folder, 'memory.save.partial'),
      templateMemory: join(folder, 'template.memory'),
      templateState: join(folder, 'template.state'),
      seed: join(folder, 'seed.iso'),
      flat: join(folder, 'flat.qcow2'),
    };
  };
  const read = async (vmId: string): Promise<VmRecord | null> => {
    const text = await readText(join(paths(vmId).folder, 'vm.json'));
    return text === null ? null : recordSchema.parse(JSON.parse(text));
  };
  /** Out of its place in one step, then away: a kill in between leaves it in staging, which is swept. */
  const discard = async (path: string): Promise<void> => {
    await makeFolder(staging);
    const trash = join(staging, `${randomBytes(8).toString('hex')}.discarded`);
    try {
      await rename(path, trash);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return;
      throw error;
    }
    await rm(trash, { recursive: true, force: true });
  };
  const sweepRemoved = async (): Promise<void> => {
    for (const name of await listNames(removed)) {
      const { mtimeMs } = await stat(join(removed, name));
      if (Date.now() - mtimeMs > removedRetentionMs) await rm(join(removed, name), { force: true });
    }
  };

  return {
    paths,
    read,
    async writeDurably(record) {
      const { folder } = paths(record.vmId);
      const isNew = (await mkdir(folder, { recursive: true, mode: 0o700 })) !== undefined;
      await replaceDurably(join(folder, 'vm.json'), `${JSON.stringify(record)}\n`);
      if (isNew) await syncFolder(vms);
    },
    async writeNonDurable(record) {
      await replaceAtomically(join(paths(record.vmId).folder, 'vm.json'), `${JSON.stringify(record)}\n`);
    },
    async resetInputs(vmId) {
      const { inputs } = paths(vmId);
      await rm(inputs, { recursive: true, force: true });
      await makeFolder(inputs, 0o755);
      return inputs;
    },
    async removeInputs(vmId) {
      await rm(paths(vmId).inputs, { recursive: true, force: true });
    },
    async commitMemory(vmId) {
      const { folder, memory, memoryPartial } = paths(vmId);
      if (!(await exists(memoryPartial))) return;
      await syncFile(memoryPartial);
      await rename(memoryPartial, memory);
      await syncFolder(folder);
    },
    async removeMemory(vmId) {
      const { folder, memory, memoryPartial } = paths(vmId);
      await rm(memoryPartial, { force: true });
      await rm(memory, { force: true });
      await syncFolder(folder);
    },
    memoryBytes: (vmId) => bytesOf(paths(vmId).memory),
    async readConsole(vmId, range) {
      const { console } = paths(vmId);
      // virtlogd starts another file when one is full, and keeps the one before.
      const files = await Promise.all([`${console}.0`, console].map(sizeOf));
      if (files.every(({ bytes }) => bytes === null)) return null;
      const totalBytes = files.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);
      const { from, to } = consoleSpan(range, totalBytes);
      return { from, totalBytes, bytes: await readAcross(files, from, to) };
    },
    async freeMiB() {
      const { bavail, bsize } = await statfs(root);
      return (bavail * bsize) / 2 ** 20;
    },
    async list() {
      return Promise.all(
        (await listNames(vms)).map(async (vmId) => ({ vmId, record: await read(vmId), bytes: await bytesIn(join(vms, vmId)) })),
      );
    },
    async remove(vmId, generation) {
      await makeFolder(removed);
      // A file that is replaced whole: half a generation would be another one.
      await replaceDurably(checkedPath(removed, vmId), `${generation}\n`);
      await discard(paths(vmId).folder);
      await sweepRemoved();
    },
    async removedGeneration(vmId) {
      const text = await readText(checkedPath(removed, vmId));
      return text === null ? null : z.coerce.number().int().parse(text.trim());
    },
    async quarantine(vmId) {
      await makeFolder(quarantine);
      try {
        await rename(paths(vmId).folder, checkedPath(quarantine, vmId));
      } catch (error) {
        if (isErrno(error, 'ENOENT')) return;
        throw error;
      }
      const now = new Date();
      await utimes(checkedPath(quarantine, vmId), now, now);
    },
    async listQuarantined() {
      return Promise.all(
        (await listNames(quarantine)).map(async (vmId) => ({ vmId, sinceMs: (await stat(join(quarantine, vmId))).mtimeMs })),
      );
    },
    removeQuarantined: (vmId) => discard(checkedPath(quarantine, vmId)),
  };
}

async function listNames(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).filter((name) => !name.endsWith('.partial'));
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

/** What a folder takes of the disk, by blocks: its images are sparse. A file that goes meanwhile counts for nothing. */
async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await listNames(folder)) bytes += await bytesOf(join(folder, name));
  return bytes;
}

interface FileSize {
  path: string;
  /** null where there is no such file. */
  bytes: number | null;
}

async function sizeOf(path: string): Promise<FileSize> {
  try {
    return { path, bytes: (await stat(path)).size };
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return { path, bytes: null };
    throw error;
  }
}

/** Bytes of files that follow each other; fewer where one of them was replaced meanwhile. */
async function readAcross(files: FileSize[], from: number, to: number): Promise<Buffer> {
  const found: Buffer[] = [];
  let at = 0;
  for (const { path, bytes } of files) {
    const end = at + (bytes ?? 0);
    const [first, last] = [Math.max(from, at), Math.min(to, end)];
    if (first < last) found.push(await readPart(path, first - at, last - first));
    at = end;
  }
  return Buffer.concat(found);
}

async function readPart(path: string, from: number, length: number): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, from);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

async function bytesOf(path: string): Promise<number> {
  try {
    return (await stat(path)).blocks * 512;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 0;
    throw error;
  }
}
