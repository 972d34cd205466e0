import { createHash, randomBytes } from 'node:crypto';
import { chmod, open, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import type { DomainConfig } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import type { Logger } from '../../model/log.ts';
import { virtualBytes } from '../disk/disk-tool.ts';
import { asciiJson } from '../guest/guest-agent.ts';
import {
  allocatedBytes,
  discard,
  diskFullOr,
  isErrno,
  listNames,
  makeFolder,
  readText,
  replaceDurably,
  requireFolderName,
  syncFile,
  syncFolder,
} from '../host/files.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import { failuresToRetire, type TemplateParts, type Templates } from '../ports/templates.ts';
import { domainXml } from './domain-xml.ts';
import { parseSaveHeader, writeSaveHeader } from './save-file.ts';
import type { Virsh } from './virsh.ts';
import { createVirshCaller } from './virsh-call.ts';

interface TemplatesOptions {
  /** The host's folder, with images/ and staging/ in it. */
  root: string;
  /** A pool for this alone: a restore holds one process for as long as it lasts. */
  virsh: Virsh;
  hypervisor: Hypervisor;
  log: Logger;
}

const fileNames = { disk: 'disk.qcow2', memory: 'memory', state: 'state', prelude: 'prelude', about: 'template.json' } as const;

/** Of one image; the least recently used one is evicted. */
const templatesPerImage = 16;
/** Without its memory, what QEMU saves of a small machine is 1 MB; it grows with processors and devices. */
const stateLimitBytes = 64 * 2 ** 20;
const callDeadlineMs = 10_000;
/** 0.2 s, several when twelve start at once on two cores. A short deadline: a cold boot is the fallback. */
const startDeadlineMs = 30_000;
/** A few megabytes of state; the memory is in its file already. */
const saveDeadlineMs = 120_000;

/**
 * QMP commands that QEMU executes before libvirt has it read the template's state: the state doesn't contain the memory
 * (docs/decisions/0043). The blanks at the end keep the file from ending before its commands were executed.
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
 * Templates under images/<image>/templates/<key>/, each assembled in a folder beside it and renamed, then never written again.
 * `<key>.trouble` beside it has the number of its failures in a row.
 */
export function openTemplates({ root, virsh, hypervisor, log }: TemplatesOptions): Templates {
  const staging = join(root, 'staging');
  const templatesOf = (image: string): string => join(root, 'images', requireFolderName(image), 'templates');
  const folderOf = (image: string, key: string): string => join(templatesOf(image), requireFolderName(key));
  const readFailures = async (image: string, key: string): Promise<TemplateFailures | null> => {
    const text = await readText(`${folderOf(image, key)}.trouble`);
    return text === null ? null : failuresSchema.parse(JSON.parse(text));
  };
  const call = createVirshCaller(virsh, callDeadlineMs);
  const setIgnoreShared = (name: string, state: boolean): Promise<string> =>
    call(['qemu-monitor-command', name, asciiJson(ignoreShared(state))]);

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

  /** Resets the capability of the restore before the first instruction, then sets the sizes of the VM's own disks. */
  async function finishStart(config: DomainConfig, sizes: Record<string, number>): Promise<void> {
    // Otherwise a later save or migration of this VM would leave its memory out, too.
    await setIgnoreShared(config.name, false);
    // QEMU takes the locks of its disks only when its guest runs. That the guest has the template's size for a moment is
    // harmless: the file system that it mounts is no larger than its disk.
    await call(['resume', config.name]);
    for (const { target, format, source } of config.disks) {
      const bytes = await virtualBytes(source.path, format);
      if (bytes !== sizes[target]) await call(['blockresize', config.name, target, `${bytes}B`]);
    }
  }

  async function assemble(key: string, config: DomainConfig, from: TemplateParts, folder: string): Promise<void> {
    const sizes = config.disks.map(async ({ target, format, source }) => [target, await virtualBytes(source.path, format)]);
    const metadata = { key, sizes: Object.fromEntries(await Promise.all(sizes)) as Record<string, number> };
    await makeFolder(folder, 0o755);
    for (const part of ['disk', 'memory', 'state'] as const) await rename(from[part], join(folder, fileNames[part]));
    await writeFile(join(folder, fileNames.prelude), qmpScript);
    await writeFile(join(folder, fileNames.about), JSON.stringify(metadata));
    for (const name of Object.values(fileNames)) await sealFile(join(folder, name));
    await syncFolder(folder);
  }

  /** Removes partial templates of a killed worker, and the least recently used one where there are too many. */
  async function evictOldest(image: string): Promise<void> {
    const parent = templatesOf(image);
    const complete: { path: string; usedMs: number }[] = [];
    for (const name of await listNames(parent)) {
      const path = join(parent, name);
      if (name.endsWith('.partial')) await rm(path, { recursive: true, force: true });
      else if (!name.includes('.')) complete.push({ path, usedMs: (await stat(join(path, fileNames.about))).mtimeMs });
    }
    const oldest = complete.sort((a, b) => a.usedMs - b.usedMs).slice(0, Math.max(0, complete.length - templatesPerImage + 1));
    for (const { path } of oldest) await discard(path, staging);
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
      await call(['save', config.name, parts.state, '--running'], saveDeadlineMs);
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
      return { bytes: await allocatedBytes(...(await listNames(folder)).map((name) => join(folder, name))) };
    },
    async startDomain(config, { image, key }) {
      const folder = folderOf(image, key);
      const metadata = await readMetadata(folder);
      if (metadata === null) throw new BerthError('hypervisor', `starting ${config.name} from ${key}: that template is gone`);
      const file = await writeRestoreState(config, folder);
      try {
        await call(['restore', file, '--paused'], startDeadlineMs);
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
      // Guests that map its memory keep it until they end.
      if (retired) await discard(folder, staging);
      return retired ? 'retired' : 'kept';
    },
  };
}

/** A machine's configuration without its identity: the rest has to be the same for a template and a VM that starts from it. */
function withoutIdentity(config: DomainConfig): DomainConfig {
  return {
    ...config,
    name: 'template',
    uuid: '00000000-0000-0000-0000-000000000000',
    memory: { kind: 'own' },
    disks: config.disks.map(({ target, format }) => ({ target, format, source: { kind: 'file', path: '/' }, backing: [] })),
    nic: { mac: '52:54:00:00:00:00', tap: 'tap', bridge: null, mtu: config.nic.mtu },
    consoleLog: '/',
    consoleSocket: '/',
    identitySocket: '/',
    streamSocket: config.streamSocket === null ? null : '/',
    onReboot: 'destroy',
  };
}

/** Reads a state file completely, after a check of its length. */
async function readStateFile(path: string): Promise<Buffer> {
  const { size } = await stat(path);
  if (size > stateLimitBytes)
    throw new BerthError('hypervisor', `${path} has ${size} bytes: it contains more than the state of devices`);
  return readFile(path);
}

/** Flushes a file to the disk and makes it read-only. */
async function sealFile(path: string): Promise<void> {
  await syncFile(path);
  await chmod(path, 0o444);
}
