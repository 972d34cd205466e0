import { createHash, randomBytes } from 'node:crypto';
import { chmod, open, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { z } from 'zod';
import type { DomainConfig } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import type { Logger } from '../../model/log.ts';
import { virtualBytes } from '../disk/disk-tool.ts';
import { asciiJson } from '../guest/guest-agent.ts';
import { diskFullOr, isErrno, makeFolder, readText, replaceDurably, syncFile, syncFolder } from '../host/files.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import type { TemplateParts, Templates } from '../ports/templates.ts';
import { domainXml } from './domain-xml.ts';
import { callVirsh, virshError } from './hypervisor.ts';
import { parseSaveHeader, writeSaveHeader } from './save-file.ts';
import type { Virsh } from './virsh.ts';

export interface TemplatesOptions {
  /** The host's folder, with images/ and staging/ in it. */
  root: string;
  /** Kept for this: a restore holds one process for as long as it lasts. */
  virsh: Virsh;
  hypervisor: Hypervisor;
  log: Logger;
}

const fileNames = { disk: 'disk.qcow2', memory: 'memory', state: 'state', prelude: 'prelude', about: 'template.json' } as const;

/** In a row. A host may be in trouble once, or twice. */
const failuresToRetire = 3;
/** Of one image; the one that was used longest ago makes room. */
const templatesPerImage = 16;
/** Without its memory, what QEMU saves of a small machine is 1 MB; it grows with processors and devices. */
const stateLimitBytes = 64 * 2 ** 20;
const askDeadlineMs = 10_000;
/** 0.2 s, several when twelve start at once on two cores. Given up soon: a cold boot is the other way. */
const startDeadlineMs = 30_000;
/** A few megabytes of state; the memory is in its file already. */
const saveDeadlineMs = 120_000;

/**
 * What QEMU is told before libvirt has it read the template's state: that memory isn't in there (docs/decisions/0043).
 * The blank end keeps the file from being over before its commands were carried out.
 */
const ignoreShared = (state: boolean) => ({
  execute: 'migrate-set-capabilities',
  arguments: { capabilities: [{ capability: 'x-ignore-shared', state }] },
});
const qmpScript = `{"execute":"qmp_capabilities"}\n${JSON.stringify(ignoreShared(true))}\n${' '.repeat(512)}\n`;

const metadataSchema = z.strictObject({ key: z.string(), sizes: z.record(z.string(), z.number()) });
const failuresSchema = z.strictObject({ failures: z.int().min(0), why: z.string(), retired: z.boolean() });
type TemplateFailures = z.infer<typeof failuresSchema>;

/**
 * Templates under images/<image>/templates/<key>/, each collected beside its place and renamed, then never written again.
 * `<key>.trouble` beside it says how often in a row it failed.
 */
export function openTemplates({ root, virsh, hypervisor, log }: TemplatesOptions): Templates {
  const staging = join(root, 'staging');
  const templatesOf = (image: string): string => join(root, 'images', folderName(image), 'templates');
  const folderOf = (image: string, key: string): string => join(templatesOf(image), folderName(key));
  const readFailures = async (image: string, key: string): Promise<TemplateFailures | null> => {
    const text = await readText(`${folderOf(image, key)}.trouble`);
    return text === null ? null : failuresSchema.parse(JSON.parse(text));
  };
  async function ask(command: [string, ...string[]], deadlineMs = askDeadlineMs): Promise<void> {
    const answer = await callVirsh(virsh, command, deadlineMs);
    if (!answer.ok) throw virshError(command, answer.error);
  }
  const setIgnoreShared = (name: string, state: boolean): Promise<void> =>
    ask(['qemu-monitor-command', name, asciiJson(ignoreShared(state))]);

  async function readMetadata(folder: string): Promise<z.infer<typeof metadataSchema> | null> {
    const text = await readText(join(folder, fileNames.about));
    return text === null ? null : metadataSchema.parse(JSON.parse(text));
  }

  /** The template's state under another header, in a file of its own: libvirt takes a domain's XML from nowhere else. */
  async function writeRestoreState(config: DomainConfig, folder: string): Promise<string> {
    const saved = await readStateFile(join(folder, fileNames.state));
    const memory = { kind: 'copy', file: join(folder, fileNames.memory), qmpScript: join(folder, fileNames.prelude) } as const;
    const header = parseSaveHeader(saved);
    const file = join(staging, `${config.name}.${randomBytes(6).toString('hex')}.state`);
    const handle = await open(file, 'wx', 0o600);
    try {
      await handle.writev([writeSaveHeader(header, domainXml({ ...config, memory })), saved.subarray(header.streamOffset)]);
    } finally {
      await handle.close();
    }
    return file;
  }

  /** What it was restored with is undone before its first instruction; then it learns how large its disks are here. */
  async function finishStart(config: DomainConfig, sizes: Record<string, number>): Promise<void> {
    // Else what is saved or sent of this VM later would be in a form that only this one way of starting understands.
    await setIgnoreShared(config.name, false);
    // QEMU has no right to its disks until its guest runs. A guest that sees the template's size for a moment is none the
    // worse for it: what it mounts is no larger than its disk.
    await ask(['resume', config.name]);
    for (const { target, format, source } of config.disks) {
      const bytes = await virtualBytes(source.path, format);
      if (bytes !== sizes[target]) await ask(['blockresize', config.name, target, `${bytes}B`]);
    }
  }

  async function assemble(key: string, config: DomainConfig, from: TemplateParts, place: string): Promise<void> {
    const sizes = config.disks.map(async ({ target, format, source }) => [target, await virtualBytes(source.path, format)]);
    const metadata = { key, sizes: Object.fromEntries(await Promise.all(sizes)) as Record<string, number> };
    await makeFolder(place, 0o755);
    for (const part of ['disk', 'memory', 'state'] as const) await rename(from[part], join(place, fileNames[part]));
    await writeFile(join(place, fileNames.prelude), qmpScript);
    await writeFile(join(place, fileNames.about), JSON.stringify(metadata));
    for (const name of Object.values(fileNames)) await sealFile(join(place, name));
    await syncFolder(place);
  }

  /** Half-made ones of a killed worker, and the one that was used longest ago where there are too many. */
  async function evictOldest(image: string): Promise<void> {
    const parent = templatesOf(image);
    const kept: { path: string; usedMs: number }[] = [];
    for (const name of await listNames(parent)) {
      const path = join(parent, name);
      if (name.endsWith('.partial')) await rm(path, { recursive: true, force: true });
      else if (!name.includes('.')) kept.push({ path, usedMs: (await stat(join(path, fileNames.about))).mtimeMs });
    }
    const oldest = kept.sort((a, b) => a.usedMs - b.usedMs).slice(0, Math.max(0, kept.length - templatesPerImage + 1));
    for (const { path } of oldest) await discard(path);
  }

  /** Out of sight in one step. Guests that map its memory keep it until they end. */
  async function discard(folder: string): Promise<void> {
    const trash = join(staging, `${basename(folder)}.${randomBytes(6).toString('hex')}.discarded`);
    try {
      await rename(folder, trash);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return;
      throw error;
    }
    await rm(trash, { recursive: true, force: true });
  }

  return {
    async computeKey(config) {
      const machine = [domainXml(withoutIdentity(config)), await hypervisor.version(), cpus()[0]?.model ?? 'unknown'];
      const digest = createHash('sha256').update(JSON.stringify(machine)).digest('hex').slice(0, 16);
      return `${config.vcpus}x${config.memoryMiB}-${digest}`;
    },
    async find(image, key) {
      const folder = folderOf(image, key);
      const now = new Date();
      try {
        await utimes(join(folder, fileNames.about), now, now);
      } catch (error) {
        if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
        return (await readFailures(image, key))?.retired === true ? 'retired' : 'none';
      }
      return { image, key, disk: join(folder, fileNames.disk) };
    },
    async save(image, key, config, parts) {
      await evictOldest(image);
      await setIgnoreShared(config.name, true);
      await ask(['save', config.name, parts.state, '--running'], saveDeadlineMs);
      parseSaveHeader(await readStateFile(parts.state));
      const folder = folderOf(image, key);
      const partial = `${folder}.${randomBytes(6).toString('hex')}.partial`;
      try {
        await makeFolder(templatesOf(image), 0o755);
        await assemble(key, config, parts, partial);
        await rename(partial, folder);
        await syncFolder(templatesOf(image));
      } catch (error) {
        await rm(partial, { recursive: true, force: true });
        if (!isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw diskFullOr(error, `making a template of ${image}`);
      }
      return { bytes: await bytesIn(folder) };
    },
    async startDomain(config, { image, key }) {
      const folder = folderOf(image, key);
      const metadata = await readMetadata(folder);
      if (metadata === null) throw new BerthError('hypervisor', `starting ${config.name} from ${key}: that template is gone`);
      const file = await writeRestoreState(config, folder);
      try {
        await ask(['restore', file, '--paused'], startDeadlineMs);
      } finally {
        await rm(file, { force: true });
      }
      try {
        await finishStart(config, metadata.sizes);
      } catch (error) {
        await hypervisor.destroy(config.name);
        throw error;
      }
    },
    async recordOutcome({ image, key }, outcome) {
      const folder = folderOf(image, key);
      const before = await readFailures(image, key);
      if (outcome === 'started') {
        if (before !== null) await rm(`${folder}.trouble`, { force: true });
        return 'kept';
      }
      const failures = (before?.failures ?? 0) + 1;
      const retired = failures >= failuresToRetire;
      await replaceDurably(`${folder}.trouble`, `${JSON.stringify({ failures, why: outcome.failed, retired })}\n`);
      log.warn({ image, key, failures, retired, why: outcome.failed }, 'a guest did not start from its template');
      if (retired) await discard(folder);
      return retired ? 'retired' : 'kept';
    },
    async list() {
      const found: { image: ImageId; key: string; bytes: number }[] = [];
      for (const image of await listNames(join(root, 'images')))
        for (const key of await listNames(templatesOf(image)))
          if (!key.includes('.')) found.push({ image: image as ImageId, key, bytes: await bytesIn(folderOf(image, key)) });
      return found;
    },
  };
}

/** A machine without what makes it one VM and not another: what is left has to be the same for both. */
function withoutIdentity(config: DomainConfig): DomainConfig {
  return {
    ...config,
    name: 'template',
    uuid: '00000000-0000-0000-0000-000000000000',
    memory: { kind: 'own' },
    disks: config.disks.map(({ target, format }) => ({ target, format, source: { kind: 'file', path: '/' }, backing: [] })),
    nic: { mac: '52:54:00:00:00:00', tap: 'tap', bridge: null, mtu: config.nic.mtu },
    consoleLog: '/',
    identitySocket: '/',
    onReboot: 'destroy',
  };
}

function folderName(name: string): string {
  if (!/^[A-Za-z0-9_-]{1,96}$/.test(name)) throw new Error(`BUG: ${JSON.stringify(name)} can't name a folder`);
  return name;
}

/** A state file, whole: its header is checked before its length is believed. */
async function readStateFile(path: string): Promise<Buffer> {
  const { size } = await stat(path);
  if (size > stateLimitBytes) throw new BerthError('hypervisor', `${path} has ${size} bytes: it holds more than devices' state`);
  return readFile(path);
}

/** On the disk for good, and not to be written again. */
async function sealFile(path: string): Promise<void> {
  await syncFile(path);
  await chmod(path, 0o444);
}

async function listNames(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  }
}

/** By blocks: the memory of an idle guest is mostly a hole. */
async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await listNames(folder))
    try {
      bytes += (await stat(join(folder, name))).blocks * 512;
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
    }
  return bytes;
}
