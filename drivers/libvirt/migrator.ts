import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { MigrationJob } from '../../model/migration.ts';
import type { VmLoad } from '../../model/vm.ts';
import type { Migrator, PeerHypervisor, ProcessHandle } from '../ports/migrator.ts';
import { domainXml } from './domain-xml.ts';
import { callVirsh, domainStatus, virshError } from './hypervisor.ts';
import { qemuPidFile, readPid, watchPid } from './qemu-process.ts';
import { openVirsh, type Virsh } from './virsh.ts';

const askDeadlineMs = 10_000;
/** Aborting takes two seconds; in the last phase it waits for that phase. */
const abortDeadlineMs = 30_000;
/** At the switch a peer that doesn't answer at once is left to the saga. */
const peerDeadlineMs = 3000;

const noDomainPattern = /failed to get domain|Domain not found/i;
/** The last is of one that is only arriving, also where libvirtd has forgotten from where: the source has the job. */
const noJobPattern = /no job is active|domain is not running|not running|available only on the source host/i;

/**
 * Live migration over libvirt, peer to peer. `virsh` should be kept for this alone: a migration holds one process.
 * @param mibPerS what one migration may carry; null: as much as the network does
 */
export function openMigrator(virsh: Virsh, scratch: string, mibPerS: number | null): Migrator {
  async function ask(command: [string, ...string[]], deadlineMs = askDeadlineMs): Promise<void> {
    const answer = await callVirsh(virsh, command, deadlineMs);
    if (!answer.ok) throw virshError(command, answer.error);
  }
  return {
    async migrate({ config, targetAddress: to, deadlineMs }) {
      await mkdir(scratch, { recursive: true });
      const file = join(scratch, `${config.name}.${randomBytes(6).toString('hex')}.xml`);
      await writeFile(file, domainXml(config), { mode: 0o600 });
      try {
        await ask(migrateCommand(config.name, to, file, mibPerS), deadlineMs);
      } finally {
        await rm(file, { force: true });
      }
    },
    async observeJob(name) {
      const answer = await callVirsh(virsh, ['domjobinfo', name, '--rawstats'], askDeadlineMs);
      if (answer.ok) return parseJob(answer.output);
      // One that is only defined has no jobs.
      if (noJobPattern.test(answer.error)) return null;
      if (noDomainPattern.test(answer.error) && (await domainStatus(virsh, name, askDeadlineMs)) === null) return null;
      throw virshError(['domjobinfo', name], answer.error);
    },
    async abort(name) {
      const answer = await callVirsh(virsh, ['domjobabort', name], abortDeadlineMs);
      if (!answer.ok && !noDomainPattern.test(answer.error) && !noJobPattern.test(answer.error))
        throw virshError(['domjobabort', name], answer.error);
    },
    setMaxDowntime: (name, ms) => ask(['migrate-setmaxdowntime', name, String(Math.round(ms))]),
    measureLoad: (name) => measureLoad(virsh, name),
    readCpuSeconds: (name) => readCpuSeconds(virsh, name),
    watchProcess: watchQemuProcess,
    openPeer: openPeer,
  };
}

/**
 * `--unsafe`: the disks are opened over NFS with the host's cache, which is safe because source and target go through
 * the one page cache of the home host, and the source writes everything out before it hands over.
 */
function migrateCommand(name: string, targetAddress: string, file: string, mibPerS: number | null): [string, ...string[]] {
  const how = ['--live', '--p2p', '--suspend', '--unsafe', '--auto-converge'];
  if (mibPerS !== null) how.push('--bandwidth', String(mibPerS));
  return ['migrate', ...how, '--xml', file, name, `qemu+tcp://${targetAddress}/system`, `tcp://${targetAddress}`];
}

/** QEMU samples pages for this long; it is asked how far it is a few times more. */
const dirtyRateSampleS = 1;
const dirtyRatePolls = 10;
const dirtyRatePollMs = 250;

/** QEMU hashes a sample of the pages before and after a second: it needs no dirty log, and slows the guest down by nothing. */
async function measureLoad(virsh: Virsh, name: string): Promise<VmLoad | null> {
  const status = await domainStatus(virsh, name, askDeadlineMs);
  if (status?.state !== 'running') return null;
  const started = await callVirsh(virsh, ['domdirtyrate-calc', name, '--seconds', String(dirtyRateSampleS)], askDeadlineMs);
  const memory = await callVirsh(virsh, ['dommemstat', name], askDeadlineMs);
  const residentMiB = memory.ok ? parseResidentMiB(memory.output) : null;
  const [before, beganMs] = [await readCpuSeconds(virsh, name), performance.now()];
  await delay(dirtyRateSampleS * 1000);
  const [after, tookS] = [await readCpuSeconds(virsh, name), (performance.now() - beganMs) / 1000];
  const busyCpus = before === null || after === null ? null : Math.max(0, after - before) / tookS;
  if (!started.ok) return { residentMiB, dirtyMiBPerS: null, busyCpus };
  for (let poll = 0; poll < dirtyRatePolls; poll += 1) {
    const stats = await callVirsh(virsh, ['domstats', name, '--dirtyrate'], askDeadlineMs);
    const dirtyMiBPerS = stats.ok ? parseDirtyRate(stats.output) : null;
    if (dirtyMiBPerS !== null) return { residentMiB, dirtyMiBPerS, busyCpus };
    await delay(dirtyRatePollMs);
  }
  return { residentMiB, dirtyMiBPerS: null, busyCpus };
}

async function readCpuSeconds(virsh: Virsh, name: string): Promise<number | null> {
  const stats = await callVirsh(virsh, ['domstats', name, '--cpu-total'], askDeadlineMs);
  return stats.ok ? parseCpuSeconds(stats.output) : null;
}

/** `domstats --cpu-total` says `cpu.time` in nanoseconds, of the whole process: what an emulator does for its guest counts. */
export function parseCpuSeconds(output: string): number | null {
  const ns = /^\s*cpu\.time=(\d+)$/m.exec(output)?.[1];
  return ns === undefined ? null : Number(ns) / 1e9;
}

/** `dommemstat` prints `name value` lines, in KiB; `rss` is there also without a balloon driver in the guest. */
export function parseResidentMiB(output: string): number | null {
  const kib = /^rss (\d+)$/m.exec(output)?.[1];
  return kib === undefined ? null : Number(kib) / 1024;
}

/** `domstats --dirtyrate` says `calc_status=2` once it has measured. */
export function parseDirtyRate(output: string): number | null {
  if (!/^\s*dirtyrate\.calc_status=2$/m.test(output)) return null;
  const rate = /^\s*dirtyrate\.megabytes_per_second=(\d+)$/m.exec(output)?.[1];
  return rate === undefined ? null : Number(rate);
}

/** virDomainJobType: bounded and unbounded ones are at work; 0 is none, 3 completed, 4 failed, 5 cancelled. */
const activeJobTypes = ['1', '2'];

/**
 * `domjobinfo --rawstats`: `Job type: N` by its number (without --rawstats it is a word), an empty line, then `name: value`
 * lines, libvirt's typed parameters.
 */
export function parseJob(output: string): MigrationJob {
  const values = new Map(
    output.split('\n').flatMap((line): [string, string][] => {
      const match = /^([^:]+):\s+(.*?)\s*$/.exec(line);
      return match?.[1] === undefined || match[2] === undefined ? [] : [[match[1].trim(), match[2]]];
    }),
  );
  const number = (name: string): number => {
    const value = Number(values.get(name) ?? 0);
    return Number.isFinite(value) && value >= 0 ? value : 0;
  };
  const type = values.get('Job type') ?? '0';
  if (!/^\d+$/.test(type)) throw new Error(`domjobinfo says a job is of the type ${JSON.stringify(type)}, which is no number`);
  return {
    active: activeJobTypes.includes(type),
    elapsedMs: number('time_elapsed'),
    totalBytes: number('memory_total'),
    processedBytes: number('memory_processed'),
    remainingBytes: number('memory_remaining'),
    dirtyBytesPerS: number('memory_dirty_rate') * number('memory_page_size'),
    bytesPerS: number('memory_bps'),
    iterations: number('memory_iteration'),
  };
}

/** QEMU's own process. */
async function watchQemuProcess(name: string): Promise<ProcessHandle | null> {
  const pid = await readPid(qemuPidFile(name));
  return pid === null ? null : watchPid(pid);
}

function openPeer(address: string): PeerHypervisor {
  const virsh = openVirsh(`qemu+tcp://${address}/system`, 1);
  return {
    connect: () => virsh.prestart(),
    status: (name) => domainStatus(virsh, name, peerDeadlineMs),
    async resume(name) {
      const answer = await callVirsh(virsh, ['resume', name], peerDeadlineMs);
      if (!answer.ok) throw virshError(['resume', name], answer.error);
    },
    close: () => virsh.close(),
  };
}
