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
 * Every wait of every workflow, in ms. `pace` scales them all: 1 at a site, less in tests.
 */
export interface Timing {
  /** A step that nobody took from a host's queue for this long: the host is silent. Longer than a worker's restart. */
  unreachableAfterMs: number;
  /** Between two attempts to be placed: signals do the work, this finds a lost one. */
  queuePollMs: number;
  /** Between two decisions of the planner, when nothing is due and nobody tells it anything. */
  planPollMs: number;
  /** How much longer than its lease's duration the steps before and after its running may take, each. */
  overheadLimitMs: number;
  /** How long past timeoutS the guest, and after it the host, are trusted to end the command. */
  runGraceMs: number;
  /** How long a task's end waits for the removal of its VMs, before it is told with a VM that is stuck. */
  removalTimeoutMs: number;
  /** A removal that was refused: first pause and longest. An operator has to look; a signal `wakeUp` shortens it. */
  refusedBackoff: { initialMs: number; maxMs: number };
  /** Between a host's reconciliations. Two sightings make a finding, so one is acted on after ten minutes. */
  reconcileIntervalMs: number;
  /** A template that there was no room for is tried again. It's nobody's task that waits. */
  templateRetryMs: number;
  /** A VM that stands alone looks at what is wanted of it: signals do the work, and housekeeping repeats lost ones. */
  vmPollMs: number;
  /** A migration asks whether it is its turn: soon at first, as who came before it has often only to begin; and later on. */
  admissionPoll: { initialMs: number; maxMs: number };
  /** Between two looks at how a pre-copy goes, or a cold copy. */
  progressIntervalMs: number;
  /** How long a migration waits for what it left at a host to be removed. */
  cleanupTimeoutMs: number;
  /** Between two looks at both hosts while nothing may be touched: first and longest; and when that is told. */
  ambiguousBackoff: { initialMs: number; maxMs: number };
  ambiguousAlertAfterMs: number;
  /** Between two looks at a drain that moves VMs, and between two at what its VMs do with their memory. */
  drainPollMs: number;
  loadSampleIntervalMs: number;
  housekeepingIntervalMs: number;
  /** Rounds of housekeeping between two sweeps. */
  sweepEveryRounds: number;
  /** An accepted task without workflow, or a wish for its end that it has not heard, for this long: the API has died. */
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
    refusedBackoff: { initialMs: 10 * second * pace, maxMs: hour * pace },
    reconcileIntervalMs: 5 * minute * pace,
    templateRetryMs: 15 * second * pace,
    vmPollMs: hour * pace,
    admissionPoll: { initialMs: 0.1 * second * pace, maxMs: 2 * second * pace },
    progressIntervalMs: 2 * second * pace,
    cleanupTimeoutMs: 30 * second * pace,
    ambiguousBackoff: { initialMs: second * pace, maxMs: 5 * minute * pace },
    ambiguousAlertAfterMs: minute * pace,
    drainPollMs: 5 * second * pace,
    loadSampleIntervalMs: 20 * second * pace,
    housekeepingIntervalMs: 15 * second * pace,
    sweepEveryRounds: 40,
    orphanedAfterS: Math.ceil(20 * pace),
  };
}

/**
 * Ledger steps run in the control worker's own process. A task can't go on without the ledger, so they are repeated
 * for ever. Ten seconds are a hundred times what one takes, and not scaled: the ledger's own limits are just below.
 */
export function ledgerOptions(pace: number): LocalActivityOptions {
  return {
    startToCloseTimeout: 10 * second,
    retry: { initialInterval: 50, backoffCoefficient: 2, maximumInterval: 5 * second * pace },
  };
}

/**
 * Ten seconds without a heartbeat: the worker was killed, and its successor takes the step up again. This is what
 * decides how soon after a SIGKILL a task goes on. A cancelled step is waited for, so that nothing that undoes it
 * finds it still at work.
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

/** Twenty attempts over eight minutes: these need the repository as well, and an API process may be away that long. */
const longRetry = (pace: number): RetryPolicy => ({
  initialInterval: second * pace,
  backoffCoefficient: 2,
  maximumInterval: 30 * second * pace,
  maximumAttempts: 20,
});

/** For ever, at most 15 s apart: what must be gone stays wanted gone, however long its host is away. */
const endlessRetry = (pace: number): RetryPolicy => ({
  initialInterval: second * pace,
  backoffCoefficient: 2,
  maximumInterval: 15 * second * pace,
});

/** A row a class of host activity: how long one attempt may take, and how often it is tried. */
const activityClasses = {
  /** qemu-img, a few files, one question: a minute is a disk in trouble. */
  quick: (pace: number) => ({ startToCloseTimeout: minute * pace, retry: shortRetry(pace) }),
  /** An image, or inputs and outputs, over the network: the largest at 10 MB/s. */
  transfer: (pace: number) => ({ startToCloseTimeout: 2 * hour * pace, retry: longRetry(pace) }),
  /** A cold boot takes 3 s, under full emulation on a busy machine a minute; it has its own deadline inside. */
  boot: (pace: number) => ({ startToCloseTimeout: 10 * minute * pace, retry: shortRetry(pace) }),
  /** A cold boot, its last units and a few megabytes; once more at most, because VMs boot well without. */
  template: (pace: number) => ({ startToCloseTimeout: 10 * minute * pace, retry: { ...shortRetry(pace), maximumAttempts: 2 } }),
  /** Bounded by the task's own timeoutS, in the guest and by the saga's timer; an attempt only follows the command. */
  run: (pace: number) => ({ startToCloseTimeout: 8 * 24 * hour * pace, retry: longRetry(pace) }),
  /** One question to a hypervisor. What isn't known is asked again by the saga, which has both hosts in view. */
  observe: (pace: number) => ({ startToCloseTimeout: 30 * second * pace, retry: { maximumAttempts: 1 } }),
  /** Bounded by its own minute; a worker that is killed meanwhile asks again. Nothing hangs on it but what is told. */
  probe: (pace: number) => ({ startToCloseTimeout: 2 * minute * pace, retry: { ...shortRetry(pace), maximumAttempts: 3 } }),
  /** Bounded by its own deadlines, nine minutes of pre-copy at most; a later attempt only takes up what an earlier one began. */
  migrate: (pace: number) => ({ startToCloseTimeout: 10 * minute * pace, retry: { ...shortRetry(pace), maximumAttempts: 3 } }),
  /** Writes or reads a guest's whole memory: 100 MB/s of the largest; a later attempt takes up what an earlier one began. */
  memory: (pace: number) => ({ startToCloseTimeout: hour * pace, retry: shortRetry(pace) }),
  /** Disks that follow their VM: the largest at 10 MB/s, in the background; each attempt goes on with what is copied. */
  diskCopy: (pace: number) => ({ startToCloseTimeout: 6 * hour * pace, retry: shortRetry(pace) }),
  /** Ends a domain or removes a folder. */
  remove: (pace: number) => ({ startToCloseTimeout: 2 * minute * pace, retry: endlessRetry(pace) }),
  /** Lasts as long as its worker; one attempt, because its end is what it is for. Renewed daily, to keep it known. */
  liveness: (pace: number) => ({ startToCloseTimeout: 24 * hour * pace, retry: { maximumAttempts: 1 } }),
} as const satisfies Record<string, (pace: number) => ActivityOptions>;

const activityClassOf = {
  observeHost: 'quick',
  reportLiveness: 'liveness',
  observeInventory: 'quick',
  quarantineVm: 'quick',
  ensureImage: 'transfer',
  removeImage: 'remove',
  stageIn: 'transfer',
  ensureDisks: 'quick',
  ensureRunning: 'boot',
  buildTemplate: 'template',
  customizeVm: 'boot',
  readConsole: 'observe',
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

export function hostOptions(step: keyof HostActivities, pace: number): ActivityOptions {
  return { ...heartbeatOptions(pace), ...activityClasses[activityClassOf[step]](pace) };
}
