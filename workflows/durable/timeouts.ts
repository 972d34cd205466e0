import {
  ActivityCancellationType,
  type ActivityOptions,
  type LocalActivityOptions,
  type RetryPolicy,
} from '@temporalio/workflow';
import type { HostActivities } from '../../contracts/host.ts';

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;

/**
 * Every wait of the workflows, in ms. `pace` scales them all: 1 at a site, less in tests.
 */
export interface Timing {
  /** No worker took an activity from a host's queue for this long: the host is unreachable. Longer than a worker's restart. */
  unreachableAfterMs: number;
  /** Between two attempts to be placed: a signal starts one at once; the poll is for a lost signal. */
  queuePollMs: number;
  /** Between two decisions of the planner, when nothing is due and no signal arrives. */
  planPollMs: number;
  /** By how much the steps before the command, and those after it, may each exceed the lease's duration. */
  overheadLimitMs: number;
  /** After timeoutS, in which the guest, or else the host, ends the command. */
  runGraceMs: number;
  /** How long a task's end waits for the removal of its VMs, before the task ends with a stuck VM. */
  removalTimeoutMs: number;
  /** Between two series of attempts of a step on the ledger, which a saga can't continue without. */
  ledgerBackoff: { initialMs: number; maxMs: number };
  /** Between two attempts of a step whose host can't fetch its arguments: a gang has 64 at a time, and they are in its history. */
  ordersBackoff: { initialMs: number; maxMs: number };
  /** Between two attempts of RetryForever. An operator has to act; the signal `wakeUp` ends the pause. */
  refusedBackoff: { initialMs: number; maxMs: number };
  /** Between two rounds of a host's reconciliation. A finding needs two rounds, so it takes effect after ten minutes. */
  reconcileIntervalMs: number;
  /** Between two looks at a domain that has changed while an operation on its VM is under way. */
  domainBackoff: { initialMs: number; maxMs: number };
  /** Between two attempts to find capacity for a template. No task waits for it. */
  templateRetryMs: number;
  /** Between two reads of a standalone VM's desired state: a signal starts one at once; housekeeping repeats lost signals. */
  vmPollMs: number;
  /** Between two attempts of a migration to be admitted: short at first, because the one before it often has only to begin. */
  admissionPoll: { initialMs: number; maxMs: number };
  /** Between two progress reports of a pre-copy, a cold copy or a disk migration. */
  progressIntervalMs: number;
  /** How long a migration waits for the clean-up of a host. */
  cleanupTimeoutMs: number;
  /** Between two observations of both hosts while the outcome of a migration is unknown; and when that is reported. */
  ambiguousBackoff: { initialMs: number; maxMs: number };
  ambiguousAlertAfterMs: number;
  /** Between two rounds of a drain that moves VMs, and between two samples of its VMs' loads. */
  drainPollMs: number;
  loadSampleIntervalMs: number;
  /** Between two looks at a webhook with nothing to deliver: a signal starts one at once, and a lost one is repeated. */
  webhookPollMs: number;
  /** Between two looks at whether the moves for a host that asked for help have ended. */
  helpBackoff: { initialMs: number; maxMs: number };
  /** From the end of these moves until their effect is measured: three heartbeats of ten seconds are a batch. */
  helpMeasureMs: number;
  housekeepingIntervalMs: number;
  /** Rounds of housekeeping between two sweeps. */
  sweepEveryRounds: number;
  /** After which an accepted task without a workflow, or a cancellation without effect, is one that the API has lost. */
  orphanedAfterS: number;
}

export function timing(pace: number): Timing {
  return {
    unreachableAfterMs: 30 * second * pace,
    queuePollMs: minute * pace,
    planPollMs: minute * pace,
    overheadLimitMs: 10 * minute * pace,
    runGraceMs: 90 * second * pace,
    removalTimeoutMs: 2 * minute * pace,
    ledgerBackoff: { initialMs: second * pace, maxMs: 30 * second * pace },
    ordersBackoff: { initialMs: 2 * second * pace, maxMs: minute * pace },
    refusedBackoff: { initialMs: 10 * second * pace, maxMs: hour * pace },
    reconcileIntervalMs: 5 * minute * pace,
    domainBackoff: { initialMs: second * pace, maxMs: 30 * second * pace },
    templateRetryMs: 15 * second * pace,
    vmPollMs: hour * pace,
    admissionPoll: { initialMs: 0.1 * second * pace, maxMs: 2 * second * pace },
    progressIntervalMs: 2 * second * pace,
    cleanupTimeoutMs: 30 * second * pace,
    ambiguousBackoff: { initialMs: second * pace, maxMs: 5 * minute * pace },
    ambiguousAlertAfterMs: minute * pace,
    drainPollMs: 5 * second * pace,
    loadSampleIntervalMs: 20 * second * pace,
    webhookPollMs: 6 * hour * pace,
    helpBackoff: { initialMs: second * pace, maxMs: 10 * second * pace },
    helpMeasureMs: 60 * second * pace,
    housekeepingIntervalMs: 15 * second * pace,
    sweepEveryRounds: 40,
    orphanedAfterS: Math.ceil(20 * pace),
  };
}

/**
 * Ledger activities run in the control worker's own process, within a workflow task, whose slot they hold meanwhile: three
 * attempts, within a fifth of a second where they fail at once. The workflow repeats them after a timer, which holds no slot
 * (activity-proxies.ts). Ten seconds are a hundred times what one takes, and not scaled: the ledger's own timeouts are just
 * below.
 */
export function ledgerOptions(): LocalActivityOptions {
  return { startToCloseTimeout: 10 * second, retry: { initialInterval: 50, backoffCoefficient: 2, maximumAttempts: 3 } };
}

/**
 * After ten seconds without a heartbeat the worker was killed, and its successor repeats the activity: this decides how
 * soon after a SIGKILL a task goes on. A cancelled activity is awaited, so that its undo never runs beside it.
 */
const heartbeatOptions = (pace: number): ActivityOptions => ({
  heartbeatTimeout: 10 * second * pace,
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
});

/** Six attempts over about half a minute: more than a restart of libvirtd or of the worker takes. */
const shortRetry = (pace: number): RetryPolicy => ({
  initialInterval: second * pace,
  backoffCoefficient: 2,
  maximumInterval: 10 * second * pace,
  maximumAttempts: 6,
});

/** Twenty attempts over eight minutes: these need the repository as well, and an API process may be unavailable that long. */
const longRetry = (pace: number): RetryPolicy => ({
  initialInterval: second * pace,
  backoffCoefficient: 2,
  maximumInterval: 30 * second * pace,
  maximumAttempts: 20,
});

/** Without limit, at most 15 s apart: a removal remains due, however long its host is unreachable. */
const endlessRetry = (pace: number): RetryPolicy => ({
  initialInterval: second * pace,
  backoffCoefficient: 2,
  maximumInterval: 15 * second * pace,
});

/** Classes of host activities: how long one attempt may take, and how often it is retried. */
const activityClasses = {
  /** qemu-img, a few files, one query: one that takes a minute has a faulty disk. */
  quick: (pace: number) => ({ startToCloseTimeout: minute * pace, retry: shortRetry(pace) }),
  /** An image, or inputs and outputs, over the network: the largest at 10 MB/s. */
  transfer: (pace: number) => ({ startToCloseTimeout: 2 * hour * pace, retry: longRetry(pace) }),
  /** A cold boot takes 3 s, under full emulation on a busy machine a minute; it has its own deadline inside. */
  boot: (pace: number) => ({ startToCloseTimeout: 10 * minute * pace, retry: shortRetry(pace) }),
  /** A cold boot, its last units and a few megabytes; once more at most, because VMs boot well without. */
  template: (pace: number) => ({ startToCloseTimeout: 10 * minute * pace, retry: { ...shortRetry(pace), maximumAttempts: 2 } }),
  /** Bounded by the task's own timeoutS, in the guest and by the saga's timer; an attempt only follows the command. */
  run: (pace: number) => ({ startToCloseTimeout: 8 * 24 * hour * pace, retry: longRetry(pace) }),
  /** One query to a hypervisor. The saga repeats it, because it observes both hosts. */
  observe: (pace: number) => ({ startToCloseTimeout: 30 * second * pace, retry: { maximumAttempts: 1 } }),
  /** Bounded by its own minute; repeated after a worker was killed. Only reports depend on its result. */
  probe: (pace: number) => ({ startToCloseTimeout: 2 * minute * pace, retry: { ...shortRetry(pace), maximumAttempts: 3 } }),
  /** Bounded by its own deadlines, nine minutes of pre-copy at most; a later attempt only follows what an earlier one began. */
  migrate: (pace: number) => ({ startToCloseTimeout: 10 * minute * pace, retry: { ...shortRetry(pace), maximumAttempts: 3 } }),
  /** Writes or reads a guest's whole memory: 100 MB/s of the largest; a later attempt continues an earlier one. */
  memory: (pace: number) => ({ startToCloseTimeout: hour * pace, retry: shortRetry(pace) }),
  /** Disks that follow their VM: the largest at 10 MB/s, in the background; each attempt continues the copy. */
  diskCopy: (pace: number) => ({ startToCloseTimeout: 6 * hour * pace, retry: shortRetry(pace) }),
  /** Ends a domain or removes a folder. */
  remove: (pace: number) => ({ startToCloseTimeout: 2 * minute * pace, retry: endlessRetry(pace) }),
  /** Lasts as long as its worker; one attempt, because its end is the information. Renewed daily. Its heartbeats: livenessTimeout. */
  liveness: (pace: number) => ({ startToCloseTimeout: 24 * hour * pace, retry: { maximumAttempts: 1 } }),
} as const satisfies Record<string, (pace: number) => ActivityOptions>;

const activityClassOf = {
  observeHost: 'quick',
  reportLiveness: 'liveness',
  observeInventory: 'quick',
  observeDomains: 'quick',
  quarantineVm: 'quick',
  ensureImage: 'transfer',
  removeImage: 'remove',
  stageIn: 'transfer',
  ensureRunning: 'boot',
  buildTemplate: 'template',
  customizeVm: 'boot',
  readConsole: 'observe',
  openStream: 'observe',
  runCommand: 'run',
  stopCommand: 'quick',
  stageOut: 'transfer',
  suspendVm: 'memory',
  restoreVm: 'memory',
  pauseVm: 'quick',
  resumeVm: 'boot',
  rebootVm: 'boot',
  importDisk: 'transfer',
  shutDownGuest: 'boot',
  storeImage: 'transfer',
  removeDomain: 'remove',
  removeDisks: 'remove',
  removeVm: 'remove',
  observeLoads: 'observe',
  observeMigration: 'observe',
  readPortableRecord: 'quick',
  prepareIncoming: 'quick',
  migrateOut: 'migrate',
  abortMigration: 'quick',
  resumeDomain: 'observe',
  probeGuest: 'probe',
  observeRecovery: 'probe',
  removeDomainUnlessRunning: 'observe',
  removeLeftover: 'remove',
  offerCachedChunks: 'memory',
  packColdCopy: 'memory',
  unpackColdCopy: 'memory',
  observeColdCopy: 'observe',
  resolveRestore: 'quick',
  removeColdLeftover: 'remove',
  migrateDisks: 'diskCopy',
  observeDiskMigration: 'observe',
  resolveDiskMigration: 'quick',
  flushGuestDisks: 'quick',
} as const satisfies Record<keyof HostActivities, keyof typeof activityClasses>;

export function hostOptions(activity: keyof HostActivities, pace: number): ActivityOptions {
  return { ...heartbeatOptions(pace), ...activityClasses[activityClassOf[activity]](pace) };
}

/**
 * How long a host's worker may be away before the host is probed. Each host has this activity at all times, and four heartbeats come
 * in this time: so all hosts of a site send 133 a second at most, however many they are.
 * @param machines of the site, as the host's worker knows them; undefined: it does not say
 */
export const livenessTimeout = (machines: number | undefined, pace: number): Pick<ActivityOptions, 'heartbeatTimeout'> => ({
  heartbeatTimeout: Math.max(30 * second, 0.03 * second * (machines ?? 0)) * pace,
});

/**
 * Deliveries to one endpoint go on for minutes, until there is nothing to deliver or an attempt fails; they stop by themselves. Repeated
 * without limit: the ledger says where they go on.
 */
export const webhookOptions = (pace: number): ActivityOptions => ({
  ...heartbeatOptions(pace),
  startToCloseTimeout: 10 * minute,
  retry: endlessRetry(pace),
});
