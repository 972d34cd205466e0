import { randomBytes, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { BerthError } from '../../model/errors.ts';
import type { Guest, GuestIdentity, JobResult } from '../ports/guest.ts';
import { cloudSeed } from './cloud-seed.ts';
import { AgentError, type GuestAgent } from './guest-agent.ts';
import {
  type JobRunner,
  jobFolder,
  parseJobStatus,
  programJobRunner,
  scriptEnv,
  scriptJobRunner,
  taskFolder,
} from './guest-job.ts';
import { setupScript } from './guest-setup.ts';
import { newHostKey } from './host-key.ts';
import { sendIdentity } from './identity-port.ts';
import { writeIso } from './seed-iso.ts';

const dataDevice = '/dev/vdb';
const nic = 'eth0';
const identityProgram = '/usr/local/sbin/berth-identity';
const jobRunner = programJobRunner();
const execDeadlineMs = 60_000;
/** 0.1 s; where twelve start at once, some seconds. Past this a boot is the better way. */
const identityDeadlineMs = 20_000;
/** A boot's last units take seconds after the agent answers, under emulation on a busy machine a minute. */
const quiesceDeadlineMs = 180_000;
/** Its modules are Python, which takes a minute under emulation; where the agent had to be installed, some more. */
const cloudInitDeadlineMs = 6 * 60_000;
/** The first boot's own commands are in it. */
const setUpDeadlineMs = 8 * 60_000;
/** The log's last bytes are on their way when a command ends; a process that holds its end open isn't waited for longer. */
const logDrainDeadlineMs = 2000;
const logDrainPollMs = 10;

/**
 * What Berth does inside a guest, in as few calls as it takes: under emulation each program started costs 0.1 s and more.
 * @param identitySocket of a domain, where it came from a template
 */
export function openGuest(agent: GuestAgent, nameservers: string[], identitySocket: (domain: string) => string): Guest {
  async function exec(domain: string, argv: string[], input?: Buffer, deadlineMs = execDeadlineMs): Promise<void> {
    const { exitCode, stdout, stderr } = await agent.exec(domain, argv, {
      deadlineMs,
      env: scriptEnv,
      ...(input === undefined ? {} : { input }),
    });
    if (exitCode !== 0)
      throw new BerthError(
        'hypervisor',
        `${argv[0]} in ${domain}: exit ${exitCode}: ${`${stderr} ${stdout}`.trim().slice(-500)}`,
      );
  }

  // Jobs that this process has started by the program: its end is then asked of the agent, in one call instead of three.
  const started = new Map<string, number>();

  /** What the job's own program said at its end; null as long as it runs, and where another process has started it. */
  async function observeStartedJob(domain: string, pid: number): Promise<JobResult | 'running' | null> {
    try {
      const ended = await agent.execStatus(domain, pid);
      if (ended === null) return 'running';
      started.delete(domain);
      if (ended.exitCode !== 0)
        throw new BerthError('hypervisor', `berth-job in ${domain}: exit ${ended.exitCode}: ${ended.stderr.slice(-500)}`);
      return parseJobStatus(ended.stdout, 'of that name');
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      // An agent that was started anew doesn't know it: the job's folder says how it stands.
      started.delete(domain);
      return null;
    }
  }

  return {
    writeSeed: (path, identity) => writeIso(path, 'cidata', cloudSeed(identity, nameservers)),
    awaitCloudInit: (domain) =>
      mapAgentError(() =>
        exec(
          domain,
          ['/bin/sh', '-c', 'command -v cloud-init >/dev/null || exit 0; cloud-init status --wait >/dev/null || :'],
          undefined,
          cloudInitDeadlineMs,
        ),
      ),
    ping: (domain) => agent.ping(domain),
    async quiesce(domain) {
      const argv = ['/bin/sh', '-c', quiesceScript];
      const { exitCode, stdout, stderr } = await mapAgentError(() =>
        agent.exec(domain, argv, { deadlineMs: quiesceDeadlineMs, env: scriptEnv }),
      );
      if (exitCode !== 0)
        throw new BerthError('boot-failed', `calming ${domain}: exit ${exitCode}: ${`${stderr} ${stdout}`.trim().slice(-500)}`);
    },
    applyIdentity: (domain, identity) =>
      mapAgentError(async () => {
        const files = identityFiles(identity, nameservers);
        const records = identityRecords(identity, files);
        if (identity.firstBootKind === 'warm') return applyIdentityOverPort(identitySocket(domain), identity, records);
        await fallBackIfMissing(
          () => exec(domain, [identityProgram], Buffer.concat([records, mountRecord])),
          () => exec(domain, ['/bin/sh', '-c', identityScript, 'berth-identity', ...identityArguments(identity, files)]),
        );
      }),
    setUp: (domain, identity, setup) =>
      mapAgentError(async () => {
        // At a later boot the clock is the machine's own, and the seed another.
        const records = Buffer.concat([identityRecords(identity, identityFiles(identity, nameservers)), mountRecord]);
        const kept = records.toString().replace(/^(seed|time) .*\n/gm, '');
        await exec(domain, ['/bin/sh', '-s'], Buffer.from(setupScript(setup, kept)), setUpDeadlineMs);
      }),
    startJob: (domain, job) =>
      mapAgentError(() =>
        fallBackIfMissing(
          async () => {
            started.set(domain, await agent.start(domain, jobRunner.start(job), { env: scriptEnv }));
          },
          () => exec(domain, scriptJobRunner.start(job)),
        ),
      ),
    hasJob: (domain) => mapAgentError(async () => (await agent.readFile(domain, `${jobFolder}/pid`, 0, 1)) !== null),
    observeJob: (domain) =>
      mapAgentError(async () => {
        const pid = started.get(domain);
        const jobState = pid === undefined ? null : await observeStartedJob(domain, pid);
        if (jobState === 'running') return null;
        if (jobState !== null) return jobState;
        const status = await agent.readFile(domain, `${jobFolder}/status`, 0, 4096);
        const end = status === null ? null : parseJobStatus(status.toString(), 'of that name');
        if (end?.kind === 'exited' && end.logBytes === null) await awaitLogDrained(agent, domain);
        return end;
      }),
    readLog: (domain, from, limit) =>
      mapAgentError(async () => (await agent.readFile(domain, `${jobFolder}/log`, from, limit)) ?? Buffer.alloc(0)),
    stopJob: (domain) =>
      mapAgentError(async () => {
        // A frozen disk means that the command is over, and the agent starts nothing any more.
        if (await agent.isFrozen(domain)) return;
        const stop = (tool: JobRunner) => exec(domain, tool.stop());
        await fallBackIfMissing(
          () => stop(jobRunner),
          () => stop(scriptJobRunner),
        );
      }),
    flushDataDisk: (domain) => mapAgentError(() => flushDataDisk(agent, domain, exec)),
    bootId: (domain) =>
      mapAgentError(async () => {
        const id = await agent.readFile(domain, '/proc/sys/kernel/random/boot_id', 0, 64);
        if (id === null) throw new BerthError('hypervisor', `${domain} has no boot_id: is it Linux?`);
        return id.toString().trim();
      }),
    reboot: (domain) =>
      mapAgentError(async () => {
        await agent.start(domain, ['/bin/sh', '-c', 'exec reboot'], { env: scriptEnv });
      }),
    // A moment later, so that the agent can still say that it was heard.
    shutDown: (domain) =>
      mapAgentError(() =>
        exec(domain, ['/bin/sh', '-c', '( sleep 0.2; systemctl poweroff || poweroff ) </dev/null >/dev/null 2>&1 &']),
      ),
  };
}

/** Our own program, or the script that stands for it in a foreign image. */
async function fallBackIfMissing(primary: () => Promise<void>, fallback: () => Promise<void>): Promise<void> {
  try {
    await primary();
  } catch (error) {
    if (!(error instanceof AgentError) || !/No such file/.test(error.message)) throw error;
    await fallback();
  }
}

async function mapAgentError<T>(act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof AgentError) throw new BerthError('hypervisor', error.message, { cause: error });
    throw error;
  }
}

async function awaitLogDrained(agent: GuestAgent, domain: string): Promise<void> {
  for (const untilMs = performance.now() + logDrainDeadlineMs; performance.now() < untilMs; await delay(logDrainPollMs))
    if ((await agent.readFile(domain, `${jobFolder}/drained`, 0, 1)) !== null) return;
}

/**
 * Freezing brings the file system and its journal to the disk whatever still has files open on it, and needs no program
 * in the guest. Where the kernel or the agent can't, the disk is unmounted, or at least made read-only.
 */
async function flushDataDisk(
  agent: GuestAgent,
  domain: string,
  exec: (domain: string, argv: string[]) => Promise<void>,
): Promise<void> {
  if (await agent.isFrozen(domain)) return;
  try {
    if ((await agent.freeze(domain, [taskFolder])) > 0) return;
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
  }
  const unmount = `cd /; sync; mountpoint -q ${taskFolder} || exit 0; umount ${taskFolder} || mount -o remount,ro ${taskFolder}`;
  await exec(domain, ['/bin/sh', '-c', unmount]);
}

interface IdentityFile {
  path: string;
  mode: string;
  content: string;
}

function identityFiles(
  { hostname, neighbours, firstBootKind }: Pick<GuestIdentity, 'hostname' | 'neighbours' | 'firstBootKind'>,
  nameservers: string[],
): IdentityFile[] {
  const hosts = ['127.0.0.1 localhost', '::1 localhost', ...neighbours.map(({ name, address }) => `${address} ${name}`)];
  if (!neighbours.some(({ name }) => name === hostname)) hosts.push(`127.0.1.1 ${hostname}`);
  return [
    { path: '/etc/hosts', mode: '0644', content: lines(hosts) },
    { path: '/etc/resolv.conf', mode: '0644', content: lines(nameservers.map((server) => `nameserver ${server}`)) },
    ...(firstBootKind === null ? [] : hostKeyFiles(hostname)),
  ];
}

function hostKeyFiles(hostname: string): IdentityFile[] {
  const key = newHostKey(`root@${hostname}`);
  const path = '/etc/ssh/ssh_host_ed25519_key';
  return [
    { path, mode: '0600', content: key.private },
    { path: `${path}.pub`, mode: '0644', content: key.public },
  ];
}

const lines = (list: string[]): string => list.map((line) => `${line}\n`).join('');
const epochSeconds = (timeMs: number): string => (timeMs / 1000).toFixed(3);
const cidrAddress = ({ address, cidr }: GuestIdentity): string => `${address}/${cidr.slice(cidr.indexOf('/') + 1)}`;

/** The records that berth-identity reads (infra/guest). Seed and clock first: whatever follows may use them. */
export function identityRecords(identity: GuestIdentity, files: IdentityFile[]): Buffer {
  const records = [
    `seed ${randomBytes(64).toString('hex')}`,
    `time ${epochSeconds(identity.timeMs)}`,
    `host ${identity.hostname}`,
    `mid ${identity.machineId}`,
    ...(identity.firstBootKind === 'warm' ? [`boot ${randomUUID()}`, `mac ${nic} ${identity.mac}`] : []),
    `addr ${nic} ${cidrAddress(identity)} ${identity.gateway}`,
    ...(identity.firstBootKind === null ? [] : ['mkdir /etc/ssh 0755']),
    ...files.map(
      ({ path, mode, content }) => `file ${path} ${mode} ${Buffer.byteLength(content)}\n${content.replace(/\n$/, '')}`,
    ),
  ];
  return Buffer.from(lines(records));
}

const mountRecord = Buffer.from(`mount ${dataDevice} ${taskFolder}\n`);

/** The disk is mounted right after the guest has said who it is: berth-job waits for that, so no command is without it. */
async function applyIdentityOverPort(socket: string, { hostname, machineId }: GuestIdentity, records: Buffer): Promise<void> {
  const reported = await sendIdentity(socket, records, mountRecord, identityDeadlineMs);
  if (reported.hostname !== hostname || reported.machineId !== machineId)
    throw new BerthError('hypervisor', `${hostname} (${machineId}) says that it is ${reported.hostname} (${reported.machineId})`);
}

/** For a guest that is to be none: the files that an identity fills are there, and empty. */
const emptyIdentityFiles = identityFiles({ firstBootKind: 'warm', hostname: 'template', neighbours: [] }, []).map(
  ({ path, mode }) => `file ${path} ${mode} 0`,
);

/**
 * Quiet: nothing is being started any more, what a VM needs first is in the page cache, and nothing waits to be written.
 * Our program must be there, know of network cards and be waiting: without it a guest from a template would be its template.
 */
const quiesceScript = `
set -e
if command -v systemctl >/dev/null; then systemctl is-system-running --wait >/dev/null || :; fi
/usr/bin/setsid true || /bin/setsid true
cat /usr/local/sbin/berth-job >/dev/null 2>&1 || :
mkdir -p ${taskFolder}
rm -f /etc/ssh/ssh_host_*
read -r mac </sys/class/net/${nic}/address
${identityProgram} wait >/dev/null <<records
mac ${nic} $mac
mkdir /etc/ssh 0755
${emptyIdentityFiles.join('\n')}
records
# One of before there were templates that wait takes no notice of the word.
[ -e /run/berth/adopting ]
sync
`;

/** For images without our program. Words: hostname, machine id, address, gateway, seconds, MAC, then path, mode and content in turn. */
const identityScript = `
set -e
hostname "$1" 2>/dev/null || echo "$1" >/proc/sys/kernel/hostname
echo "$1" >/etc/hostname; echo "$2" >/etc/machine-id
date -u -s "@$5" >/dev/null || :
nic=${nic}
for at in /sys/class/net/*; do if [ "$(cat "$at/address")" = "$6" ]; then nic=\${at##*/}; fi; done
ip link set "$nic" up
ip address replace "$3" dev "$nic"
ip route replace default via "$4" || :
shift 6
while [ $# -ge 3 ]; do mkdir -p "\${1%/*}"; rm -f "$1"; ( umask 077; printf '%s' "$3" >"$1" ); chmod "$2" "$1"; shift 3; done
mkdir -p ${taskFolder}
mountpoint -q ${taskFolder} || mount ${dataDevice} ${taskFolder}
`;

function identityArguments(identity: GuestIdentity, files: IdentityFile[]): string[] {
  const { hostname, machineId, gateway, timeMs, mac } = identity;
  return [
    hostname,
    machineId,
    cidrAddress(identity),
    gateway,
    epochSeconds(timeMs),
    mac,
    ...files.flatMap(({ path, mode, content }) => [path, mode, content]),
  ];
}

/** The host's own resolvers, less those on a loopback, which no guest reaches. */
export async function hostNameservers(path = '/etc/resolv.conf'): Promise<string[]> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return '';
    throw error;
  });
  return [...text.matchAll(/^nameserver\s+([0-9.]+)\s*$/gm)]
    .map((match) => match[1] ?? '')
    .filter((server) => !server.startsWith('127.'));
}
