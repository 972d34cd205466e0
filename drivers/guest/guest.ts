import { BerthError } from '../../model/errors.ts';
import { systemClock } from '../host/clock.ts';
import { pollUntil } from '../host/poll-until.ts';
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
import { refusedExitCode, setupScript } from './guest-setup.ts';
import { sendIdentity } from './identity-port.ts';
import {
  identityArguments,
  identityFiles,
  identityProgram,
  identityRecords,
  identityScript,
  mountRecord,
  quiesceScript,
} from './identity-records.ts';
import { writeIso } from './seed-iso.ts';

const jobRunner = programJobRunner();
const execDeadlineMs = 60_000;
/** 0.1 s; where twelve start at once, some seconds. After this a cold boot is faster. */
const identityDeadlineMs = 20_000;
/** A boot's last units take seconds after the agent's first answer, under emulation on a busy machine a minute. */
const quiesceDeadlineMs = 180_000;
/** Its modules are Python, which takes a minute under emulation; where the agent had to be installed, some more. */
const cloudInitDeadlineMs = 6 * 60_000;
/** Includes the owner's commands of the first boot. */
const setUpDeadlineMs = 8 * 60_000;
/** A guest has at most a fifth of its memory to write. */
const syncDeadlineMs = 10_000;
/** The last bytes of the log are still being written when a command ends; a process that keeps the log open isn't waited for longer. */
const logDrainDeadlineMs = 2000;
const logDrainPollMs = 10;

/**
 * Acts inside guests, with as few calls as possible: under emulation the start of a program costs 0.1 s and more.
 * @param identitySocket the socket of the identity port of a domain that was started from a template
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

  // Pids of berth-job that this process has started: the agent then reports a job's end in one call instead of three.
  const started = new Map<string, number>();

  /** The status that berth-job printed at its end; null where the agent doesn't know the process any more. */
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
      // A restarted agent doesn't know the process: the job's folder has the status.
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
        throw new BerthError('boot-failed', `quiescing ${domain}: exit ${exitCode}: ${`${stderr} ${stdout}`.trim().slice(-500)}`);
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
        // Without the time and the random seed: at a later boot the guest has its own clock, and the seed would be used twice.
        const records = Buffer.concat([identityRecords(identity, identityFiles(identity, nameservers)), mountRecord]);
        const lasting = records.toString().replace(/^(seed|time) .*\n/gm, '');
        await runSetup(agent, domain, setupScript(setup, lasting));
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
        const result = status === null ? null : parseJobStatus(status.toString(), 'of that name');
        if (result?.kind === 'exited' && result.logBytes === null) await awaitLogDrained(agent, domain);
        return result;
      }),
    readLog: (domain, from, limit) =>
      mapAgentError(async () => (await agent.readFile(domain, `${jobFolder}/log`, from, limit)) ?? Buffer.alloc(0)),
    readLogTail: (domain, from, limit) =>
      mapAgentError(async () => (await agent.readFile(domain, `${jobFolder}/tail`, from, limit)) ?? Buffer.alloc(0)),
    stopJob: (domain) =>
      mapAgentError(async () => {
        // A frozen disk means that the command has ended, and that the agent starts no program any more.
        if (await agent.isFrozen(domain)) return;
        const stop = (runner: JobRunner) => exec(domain, runner.stop());
        await fallBackIfMissing(
          () => stop(jobRunner),
          () => stop(scriptJobRunner),
        );
      }),
    // Not by a freeze, which somebody would have to take back in the guest that is restored.
    syncDataDisk: (domain) =>
      mapAgentError(() => exec(domain, ['/bin/sh', '-c', `sync -f ${taskFolder} || sync`], undefined, syncDeadlineMs)),
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
    // After a moment, so that the agent can still answer this call.
    shutDown: (domain) =>
      mapAgentError(() =>
        exec(domain, ['/bin/sh', '-c', '( sleep 0.2; systemctl poweroff || poweroff ) </dev/null >/dev/null 2>&1 &']),
      ),
  };
}

/** Throws setup-failed, with the guest's own words, for what its owner asked for and its image can't do. */
async function runSetup(agent: GuestAgent, domain: string, script: string): Promise<void> {
  const options = { deadlineMs: setUpDeadlineMs, env: scriptEnv, input: Buffer.from(script) };
  const { exitCode, stdout, stderr } = await agent.exec(domain, ['/bin/sh', '-s'], options);
  if (exitCode === 0) return;
  const why = /(?:^|\n)berth: ([\s\S]*)$/.exec(stderr)?.[1];
  if (exitCode === refusedExitCode && why !== undefined)
    throw new BerthError('setup-failed', `setting up ${domain}: ${why.trim().slice(-600)}`);
  throw new BerthError('hypervisor', `setting up ${domain}: exit ${exitCode}: ${`${stderr} ${stdout}`.trim().slice(-500)}`);
}

/** Runs our own program, or the script that replaces it in a foreign image. */
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
  await pollUntil(systemClock, { pollMs: logDrainPollMs, deadlineMs: logDrainDeadlineMs }, () =>
    agent.readFile(domain, `${jobFolder}/drained`, 0, 1),
  );
}

/**
 * A freeze flushes the file system and its journal to the disk even while files are open on it, and needs no program in the
 * guest. Where the kernel or the agent doesn't support it, the disk is unmounted, or remounted read-only.
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

/** The guest mounts the disk right after it has reported its identity; berth-job waits for the mount before it starts a command. */
async function applyIdentityOverPort(socket: string, { hostname, machineId }: GuestIdentity, records: Buffer): Promise<void> {
  const reported = await sendIdentity(socket, records, mountRecord, identityDeadlineMs);
  if (reported.hostname !== hostname || reported.machineId !== machineId)
    throw new BerthError(
      'hypervisor',
      `${hostname} (${machineId}) reports the identity ${reported.hostname} (${reported.machineId})`,
    );
}
