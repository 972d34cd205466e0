import { setTimeout as delay } from 'node:timers/promises';
import type { MigrationJob } from '../../model/migration.ts';
import type { VmLoad } from '../../model/vm.ts';
import type { Migrator, PeerHypervisor, ProcessHandle } from '../ports/migrator.ts';
import { domainXml } from './domain-xml.ts';
import { domainStatus } from './hypervisor.ts';
import { qemuPidFile, readPid, watchPid } from './qemu-process.ts';
import { openVirsh, type Virsh } from './virsh.ts';
import { callVirsh, createVirshCaller, noDomainPattern, virshError, withXmlFile } from './virsh-call.ts';

const callDeadlineMs = 10_000;
/** An abort takes two seconds; in the last phase of a migration it waits for that phase. */
const abortDeadlineMs = 30_000;
/** Where a peer doesn't answer at once during the hand-over, the saga resumes the domain. */
const peerDeadlineMs = 3000;

/** The last one is of an incoming domain, also where libvirtd doesn't know its source any more: the source has the job. */
const noJobPattern = /no job is active|domain is not running|not running|available only on the source host/i;

/**
 * Live migration over libvirt, peer to peer. `virsh` should be a pool for long calls: a migration holds one process.
 * @param mibPerS the bandwidth limit of one migration; null: none
 */
export function openMigrator(virsh: Virsh, scratch: string, mibPerS: number | null): Migrator {
  const call = createVirshCaller(virsh, callDeadlineMs);
  return {
    async migrate({ config, targetAddress, deadlineMs }) {
      await withXmlFile(scratch, config.name, domainXml(config), (file) =>
        call(migrateCommand(config.name, targetAddress, file, mibPerS), deadlineMs),
      );
    },
    async observeJob(name) {
      const answer = await callVirsh(virsh, ['domjobinfo', name, '--rawstats'], callDeadlineMs);
      if (answer.ok) return parseJob(answer.output);
      // A domain that is only defined has no jobs.
      if (noJobPattern.test(answer.error)) return null;
      if (noDomainPattern.test(answer.error) && (await domainStatus(virsh, name, callDeadlineMs)) === null) return null;
      throw virshError(['domjobinfo', name], answer.error);
    },
    async abort(name) {
      const answer = await callVirsh(virsh, ['domjobabort', name], abortDeadlineMs);
      if (!answer.ok && !noDomainPattern.test(answer.error) && !noJobPattern.test(answer.error))
        throw virshError(['domjobabort', name], answer.error);
    },
    async setMaxDowntime(name, ms) {
      await call(['migrate-setmaxdowntime', name, String(Math.round(ms))]);
    },
    measureLoad: (name) => measureLoad(virsh, name),
    readCpuSeconds: (name) => readCpuSeconds(virsh, name),
    watchProcess: watchQemuProcess,
    openPeer,
  };
}

/**
 * `--unsafe`: the disks are opened over NFS with the host's cache, which is safe because source and target go through
 * the one page cache of the home host, and the source writes everything out before it hands over.
 */
function migrateCommand(name: string, targetAddress: string, file: string, mibPerS: number | null): [string, ...string[]] {
  const options = ['--live', '--p2p', '--suspend', '--unsafe', '--auto-converge'];
  if (mibPerS !== null) options.push('--bandwidth', String(mibPerS));
  return ['migrate', ...options, '--xml', file, name, `qemu+tcp://${targetAddress}/system`, `tcp://${targetAddress}`];
}

/** QEMU samples pages for this long; the result is polled for some more time. */
const dirtyRateSampleS = 1;
const dirtyRatePolls = 10;
const dirtyRatePollMs = 250;

/** QEMU hashes a sample of the pages before and after a second: it needs no dirty log, and slows the guest down by nothing. */
async function measureLoad(virsh: Virsh, name: string): Promise<VmLoad | null> {
  const status = await domainStatus(virsh, name, callDeadlineMs);
  if (status?.state !== 'running') return null;
  const started = await callVirsh(virsh, ['domdirtyrate-calc', name, '--seconds', String(dirtyRateSampleS)], callDeadlineMs);
  const memory = await callVirsh(virsh, ['dommemstat', name], callDeadlineMs);
  const residentMiB = memory.ok ? parseResidentMiB(memory.output) : null;
  const [before, startedMs] = [await readCpuSeconds(virsh, name), performance.now()];
  await delay(dirtyRateSampleS * 1000);
  const [after, tookS] = [await readCpuSeconds(virsh, name), (performance.now() - startedMs) / 1000];
  const busyCpus = before === null || after === null ? null : Math.max(0, after - before) / tookS;
  if (!started.ok) return { residentMiB, dirtyMiBPerS: null, busyCpus };
  for (let poll = 0; poll < dirtyRatePolls; poll += 1) {
    const stats = await callVirsh(virsh, ['domstats', name, '--dirtyrate'], callDeadlineMs);
    const dirtyMiBPerS = stats.ok ? parseDirtyRate(stats.output) : null;
    if (dirtyMiBPerS !== null) return { residentMiB, dirtyMiBPerS, busyCpus };
    await delay(dirtyRatePollMs);
  }
  return { residentMiB, dirtyMiBPerS: null, busyCpus };
}

async function readCpuSeconds(virsh: Virsh, name: string): Promise<number | null> {
  const stats = await callVirsh(virsh, ['domstats', name, '--cpu-total'], callDeadlineMs);
  return stats.ok ? parseCpuSeconds(stats.output) : null;
}

/** `domstats --cpu-total` prints `cpu.time` in nanoseconds, of the whole process: an emulator's own work counts. */
export function parseCpuSeconds(output: string): number | null {
  const ns = /^\s*cpu\.time=(\d+)$/m.exec(output)?.[1];
  return ns === undefined ? null : Number(ns) / 1e9;
}

/** `dommemstat` prints `name value` lines, in KiB; `rss` is there without a balloon driver in the guest, too. */
export function parseResidentMiB(output: string): number | null {
  const kib = /^rss (\d+)$/m.exec(output)?.[1];
  return kib === undefined ? null : Number(kib) / 1024;
}

/** `domstats --dirtyrate` prints `calc_status=2` once it has measured. */
export function parseDirtyRate(output: string): number | null {
  if (!/^\s*dirtyrate\.calc_status=2$/m.test(output)) return null;
  const rate = /^\s*dirtyrate\.megabytes_per_second=(\d+)$/m.exec(output)?.[1];
  return rate === undefined ? null : Number(rate);
}

/** virDomainJobType: 1 (bounded) and 2 (unbounded) are active; 0 is none, 3 completed, 4 failed, 5 cancelled. */
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
  if (!/^\d+$/.test(type)) throw new Error(`domjobinfo printed the job type ${JSON.stringify(type)}, which is no number`);
  return {
    active: activeJobTypes.includes(type),
    elapsedMs: number('time_elapsed'),
    totalBytes: number('memory_total'),
    processedBytes: number('memory_processed'),
    remainingBytes: number('memory_remaining'),
    dirtyBytesPerS: number('memory_dirty_rate') * number('memory_page_size'),
    bytesPerS: number('memory_bps'),
  };
}

/** Watches QEMU's process. */
async function watchQemuProcess(name: string): Promise<ProcessHandle | null> {
  const pid = await readPid(qemuPidFile(name));
  return pid === null ? null : watchPid(pid);
}

function openPeer(address: string): PeerHypervisor {
  const virsh = openVirsh(`qemu+tcp://${address}/system`, 1);
  const call = createVirshCaller(virsh, peerDeadlineMs);
  return {
    connect: () => virsh.prestart(),
    status: (name) => domainStatus(virsh, name, peerDeadlineMs),
    async resume(name) {
      await call(['resume', name]);
    },
    close: () => virsh.close(),
  };
}
