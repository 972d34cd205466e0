import { Readable } from 'node:stream';
import { BerthError } from '../../model/errors.ts';
import { escapeName } from '../../model/outputs/names.ts';
import { Selection } from '../../model/outputs/patterns.ts';
import { noneSkipped, skip } from '../../model/outputs/skipped.ts';
import type { DiskListing, DiskTool } from '../ports/disk-tool.ts';
import { bug, type FakeDataDisk, type FakeState, imagePath, liveUserOf, refuseLive } from './state.ts';

export function createFakeDiskTool(state: FakeState): DiskTool {
  /** A data disk that no guest writes to any more: a live guest's only once it is flushed. */
  const flushedDisk = (path: string): FakeDataDisk => {
    const disk = state.disks.get(path);
    if (disk?.kind !== 'data') throw bug(`reading ${path}, which is no data disk`);
    const user = liveUserOf(state, path);
    if (user !== undefined && !user.flushed) throw bug(`reading ${path} while ${user.config.name} may still write to it`);
    return disk;
  };
  return {
    exists: async (path) => state.disks.has(path),
    async copyOverlay(path, from, virtualMiB) {
      refuseLive(state, path, 'overwriting');
      const [, image, key] = /\/images\/([^/]+)\/templates\/([^/]+)\/disk\.qcow2$/.exec(from) ?? [];
      if (!state.templates.has(`${image}/${key}`)) throw bug(`a copy of ${from}, which isn't there`);
      state.disks.set(path, { kind: 'overlay', backing: imagePath(image!, 'disk.qcow2'), virtualMiB, copyOf: from });
    },
    async createOverlay(path, backing, virtualMiB) {
      refuseLive(state, path, 'overwriting');
      const image = /\/images\/([^/]+)\/disk\.qcow2$/.exec(backing)?.[1];
      if (image === undefined || !state.images.has(image)) throw bug(`an overlay on ${backing}, which isn't there`);
      state.disks.set(path, { kind: 'overlay', backing, virtualMiB });
    },
    async createEmpty(path, sizeMiB) {
      refuseLive(state, path, 'overwriting');
      state.disks.set(path, { kind: 'data', sizeMiB, files: new Map(), unwritten: new Map() });
    },
    async remove(path) {
      refuseLive(state, path, 'removing');
      state.disks.delete(path);
    },
    async createDataDisk(path, folder, sizeMiB) {
      refuseLive(state, path, 'overwriting');
      const vmId = /\/vms\/([^/]+)\/inputs$/.exec(folder)?.[1];
      const files = vmId === undefined ? undefined : state.inputs.get(vmId);
      if (files === undefined) throw bug(`a data disk from ${folder}, which isn't there`);
      const bytes = [...files.values()].reduce((sum, content) => sum + content.length, 0);
      if (bytes > sizeMiB * 2 ** 20) throw new BerthError('inputs-too-large', `${bytes} bytes do not fit into ${sizeMiB} MiB`);
      state.disks.set(path, { kind: 'data', sizeMiB, files: new Map(files), unwritten: new Map() });
    },
    async listFiles(image, patterns, limitFiles, signal) {
      signal.throwIfAborted();
      return listFakeFiles(flushedDisk(image), patterns, limitFiles);
    },
    readFile(image, file) {
      const content = [...flushedDisk(image).files].find(([path]) => escapePath(path) === file.path)?.[1];
      if (content === undefined) throw bug(`reading ${file.path} of ${image}, which isn't there`);
      return Readable.from([content]);
    },
    async inspect(path, limitMiB) {
      const { format, virtualMiB } = inspectDisk(state, path);
      if (virtualMiB > limitMiB) throw new BerthError('image-refused', `${path} has ${virtualMiB} MiB, more than ${limitMiB}`);
      return { format, virtualMiB };
    },
    async flatten({ source, format, destination, limitMiB }, signal) {
      signal.throwIfAborted();
      refuseLive(state, source, 'flattening');
      const found = inspectDisk(state, source);
      if (found.format !== format) throw bug(`flattening ${source} as ${format}, which it isn't`);
      if (found.virtualMiB > limitMiB) throw new BerthError('image-refused', `${source} has more than ${limitMiB} MiB`);
      const content = Buffer.from(`flat of ${found.content}`);
      state.disks.set(destination, { kind: 'flat', content, virtualMiB: found.virtualMiB });
    },
    async readDisk(path) {
      const disk = state.disks.get(path);
      if (disk?.kind !== 'flat') throw bug(`reading ${path} whole, which is not flat`);
      return { sizeBytes: disk.content.length, content: Readable.from([disk.content]) };
    },
  };
}

const escapePath = (path: string): string =>
  path
    .split('/')
    .map((name) => escapeName(Buffer.from(name)))
    .join('/');

function listFakeFiles({ files }: FakeDataDisk, patterns: readonly string[], limitFiles: number): DiskListing {
  const selection = new Selection(patterns);
  const listing: DiskListing = { files: [], folders: [], links: [], matched: [], skipped: noneSkipped() };
  for (const [name, content] of files) {
    const path = escapePath(name);
    const matched = selection.match(path);
    if (matched.length === 0) continue;
    listing.matched.push(...matched);
    const { length: sizeBytes } = content;
    if (listing.files.length < limitFiles)
      listing.files.push({ path, sizeBytes, dataBytes: sizeBytes, runs: [], mode: 0o644, modifiedMs: 0 });
    else skip(listing.skipped, { path: '', reason: 'too-many-files', detail: 'more files match than are taken' });
  }
  return listing;
}

interface InspectedDisk {
  format: 'qcow2' | 'raw';
  virtualMiB: number;
  content: string;
}

/** The content of a fake uploaded disk is `qcow2 <MiB>` or `raw <MiB>`; everything else is malformed. */
function inspectDisk(state: FakeState, path: string): InspectedDisk {
  const disk = state.disks.get(path);
  if (disk?.kind === 'overlay') return { format: 'qcow2', virtualMiB: disk.virtualMiB, content: disk.backing };
  if (disk?.kind === 'flat') return { format: 'qcow2', virtualMiB: disk.virtualMiB, content: disk.content.toString() };
  if (disk?.kind === 'data') return { format: 'raw', virtualMiB: disk.sizeMiB, content: 'a suite' };
  const match = /\/vms\/([^/]+)\/inputs\/(.+)$/.exec(path);
  const content = state.inputs.get(match?.[1] ?? '')?.get(match?.[2] ?? '');
  if (content === undefined) throw bug(`inspecting ${path}, which isn't there`);
  const header = /^(qcow2|raw) (\d+)/.exec(content.toString());
  if (header === null) throw new BerthError('image-refused', `${path} is no disk`);
  return { format: header[1] as InspectedDisk['format'], virtualMiB: Number(header[2]), content: content.toString() };
}
