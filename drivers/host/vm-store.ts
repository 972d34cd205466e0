import { mkdir, rename, rm, stat, statfs, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isId, type VmId } from '../../model/ids.ts';
import { coldBootReasons } from '../../model/vm.ts';
import { ConsoleLog } from '../guest/streams/console-log.ts';
import type { VmPaths, VmRecord, VmStore } from '../ports/vm-store.ts';
import {
  allocatedBytes,
  discard,
  exists,
  isErrno,
  listNames,
  makeFolder,
  readText,
  replaceAtomically,
  replaceDurably,
  requireFolderName,
  syncFile,
  syncFolder,
} from './files.ts';
import { vmPathsIn } from './vm-paths.ts';

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
  ready: z.strictObject({ createMs: millis, bootMs: millis }).nullable(),
  jobStartedMs: millis.nullable(),
  boot: z
    .union([
      z.strictObject({ kind: z.literal('warm') }),
      z.strictObject({ kind: z.literal('cold'), why: z.enum(coldBootReasons) }),
    ])
    .nullable()
    .default(null),
  // Records of versions without templates don't have it; their disks may hold a guest's work.
  identityApplied: z.boolean().default(true),
  flushed: z.boolean(),
  removing: z.boolean(),
  // Not in records of versions without migration.
  departureGeneration: z.int().min(0).nullable().default(null),
  cleanedUpAfter: z.int().min(0).nullable().default(null),
  // Not in records of versions without suspension.
  suspended: z.strictObject({ sinceMs: millis, complete: z.boolean() }).nullable().default(null),
  pausedSinceMs: millis.nullable().default(null),
  arrivedPaused: z.boolean().default(false),
  idleMs: millis.default(0),
  // Not in records of versions without disk migration.
  disksLocal: z.boolean().default(false),
  keepsOutputs: z.boolean().default(false),
});

/** How long the record of a removal is retained: longer than any activity for that VM may last. */
const removedRetentionMs = 24 * 3600 * 1000;

/** Folders of VMs under `root`: vms/<id>/, removed/<id>, quarantine/<id>/, and staging/ for what is being removed. */
export function openVmStore(root: string): VmStore {
  const vms = join(root, 'vms');
  const removed = join(root, 'removed');
  const quarantine = join(root, 'quarantine');
  const staging = join(root, 'staging');

  const checkedPath = (folder: string, vmId: string): string => join(folder, requireFolderName(vmId));
  const paths = (vmId: string): VmPaths => vmPathsIn(checkedPath(vms, vmId));
  const read = async (vmId: string): Promise<VmRecord | null> => {
    const text = await readText(join(paths(vmId).folder, 'vm.json'));
    return text === null ? null : recordSchema.parse(JSON.parse(text));
  };
  const sweepRemoved = async (): Promise<void> => {
    for (const name of await listComplete(removed)) {
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
    memoryBytes: (vmId) => allocatedBytes(paths(vmId).memory),
    readConsole: (vmId, range) => new ConsoleLog(paths(vmId).console, '').readPage(range),
    async freeMiB() {
      const { bavail, bsize } = await statfs(root);
      return (bavail * bsize) / 2 ** 20;
    },
    listIds: async () => (await listComplete(vms)).filter((name): name is VmId => isId('vm', name)),
    async list() {
      return Promise.all(
        (await listComplete(vms)).map(async (vmId) => {
          const folder = join(vms, vmId);
          const files = (await listComplete(folder)).map((name) => join(folder, name));
          return { vmId, record: await read(vmId), bytes: await allocatedBytes(...files) };
        }),
      );
    },
    async remove(vmId, generation) {
      await makeFolder(removed);
      // Replaced atomically: a part of a number would be another generation.
      await replaceDurably(checkedPath(removed, vmId), `${generation}\n`);
      await discard(paths(vmId).folder, staging);
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
        (await listComplete(quarantine)).map(async (vmId) => ({ vmId, sinceMs: (await stat(join(quarantine, vmId))).mtimeMs })),
      );
    },
    removeQuarantined: (vmId) => discard(checkedPath(quarantine, vmId), staging),
  };
}

/** Without files that are being written. */
async function listComplete(folder: string): Promise<string[]> {
  return (await listNames(folder)).filter((name) => !name.endsWith('.partial'));
}
