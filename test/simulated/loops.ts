import type { ActiveWorkCursor } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostFacts } from '../../model/host.ts';
import { After, type Call, forever, type SimulatedWorkflow, untaken } from './simulation.ts';

const hour = 3_600_000;

/** The answers of a ledger and of hosts, by the activity's name; an activity without one is not expected. */
type Answers = Record<string, unknown | ((call: Call) => unknown)>;

function answering(answers: Answers): SimulatedWorkflow['answer'] {
  return (call) => {
    if (!(call.name in answers)) throw new Error(`the loop is not expected to call ${call.name}`);
    const answer = answers[call.name];
    return typeof answer === 'function' ? answer(call) : answer;
  };
}

const refused = (message: string) => (): never => {
  throw new BerthError('host-busy', message);
};

const from = { id: 'host-1', address: '10.77.0.1' };
const to = { id: 'host-2', address: '10.77.0.2' };
export const vm = { id: 'vm_1', host: 'host-2', home: 'host-1', generation: 2, image: { id: 'image_1' }, extraDisksMiB: [] };
const settled = { state: 'running', host: 'host-1', home: 'host-1', generation: 1, migrationWorkflowId: null };
const waiting = { placed: false, refusal: { hosts: 3, failed: { memory: 3 } }, term: null, planActive: true, prefetch: null };

const desired = { owner: 'owner_1', state: 'running', operation: null, remove: false, leaseEndsAt: null };
const task = {
  id: 'task_1',
  owner: 'owner_1',
  state: 'queued',
  vmIds: ['vm_1'],
  cancelRequested: false,
  spec: { nodes: 1, timeoutS: 600, outputs: [], lease: { kind: 'bestEffort', durationS: 600 } },
};
/** A task whose command may take months. */
const longS = 100 * 24 * 3600;
const commandRuns = {
  loadTask: { ...task, spec: { ...task.spec, timeoutS: longS, lease: { kind: 'bestEffort', durationS: longS } } },
  reserveTask: { placed: true, vms: [{ ...vm, host: 'host-1', generation: 1 }], term: null },
  advanceTask: [],
  issueTaskStepArgs: { stageIn: { vm }, run: { vm }, stageOut: { vm }, migrationWorkflowId: null },
  stageIn: { bytes: 0, image: 'cache' },
  ensureRunning: { createMs: 1, bootMs: 1, boot: { kind: 'warm' } },
};
const route = { from, to, home: from, vm, suspended: false, sourceGeneration: 1 };
const migration = {
  id: 'migration_1',
  vmId: 'vm_1',
  owner: 'owner_1',
  generation: 2,
  state: 'running',
  from: 'host-1',
  to: 'host-2',
  mode: 'cold',
  moveDisk: false,
  coldFallback: false,
  convergeWithinS: 60,
  abortRequested: false,
  error: null,
  task: null,
};
const drainStep = {
  state: 'waiting',
  host: 'host-1',
  moves: [],
  abort: [],
  vmsToNotify: [],
  cancelTemplateBuilds: false,
  images: [],
  verifyEmpty: false,
  notifications: [],
  waitMs: null,
  sampleLoads: ['vm_1'],
  recoveries: [],
  summary: 'waits for the host',
};
const verdict = {
  asks: true,
  kind: 'processors',
  confidence: 0.5,
  expectedS: 600,
  seen: { points: 20, spikeS: 8, useLimit: 1, stressedS: 20, use: 1, steal: 0.4 },
};
const facts = { hostId: 'host-1', hypervisor: 'QEMU', accelerator: 'kvm' } as unknown as HostFacts;

const prepared = {
  loadMigration: migration,
  reserveMigration: { admitted: true, route },
  readPortableRecord: {},
  ensureImage: { from: 'cache', bytes: 0 },
  offerCachedChunks: { chunks: 0 },
  recordMigrationProgress: undefined,
  markMigrationStuck: undefined,
  suspendVm: { bytes: 1 },
};

/** Of a site on which there is work of each kind, and nothing to do. */
export const housekeeping = {
  listTasksWithoutWorkflow: [],
  listMigrationsWithoutWorkflow: [],
  listDrainsWithoutWorkflow: [],
  listReservationsWithoutWorkflow: [],
  listVmsToNotify: [],
  listTasksToCancel: [],
  listBuildsWithoutWorkflow: [],
  listBuildsToCancel: [],
  listImagesToSweep: [],
  listActiveTasks: ({ args: [after] }: Call) => (after === null ? Array.from({ length: 20 }, (_, n) => `task_${n}`) : []),
  releaseVms: [],
  sweepExpiredRows: 0,
  removeExpired: { rows: 0, more: false },
  listActiveWork: ({ args: [after] }: Call) => ({
    vms: (after as ActiveWorkCursor).vm === null ? Array.from({ length: 20 }, (_, n) => `vm_${n}`) : [],
    migrations: [{ id: 'migration_1', vmId: 'vm_1', generation: 2 }],
    drains: [{ id: 'drain_1', host: 'host-1', number: 1 }],
    reservations: ['reservation_1'],
    builds: [{ id: 'image_1', name: 'image', digest: 'digest' }],
    hosts: ['host-1', 'host-2', 'host-3'],
    next: { ...(after as ActiveWorkCursor), vm: (after as ActiveWorkCursor).vm === null ? 'vm_19' : null },
  }),
};

/** The longest that a recipe may ask for. */
const build = {
  id: 'image_1',
  name: 'image',
  owner: 'owner_1',
  state: 'pending',
  base: 'image',
  timeoutS: 6 * 3600,
  vmId: 'vm_1',
};
const buildAnswers = {
  loadBuild: { ...build, begun: false, cancelRequested: false },
  setVmState: undefined,
  recordBuildProgress: undefined,
  finishBuild: undefined,
  releaseVms: [],
};

/**
 * Every loop in which a workflow can wait for as long as somebody else takes. `hours`: what npm test simulates, where a month
 * takes minutes; each loop would exceed the bound within them. `endsAfter`: the hours after which its own deadline ends it.
 */
export const waitingLoops: Record<string, SimulatedWorkflow & { hours?: number; endsAfter?: number }> = {
  'a task that waits for a host': {
    hours: 24,
    type: 'runTask',
    id: 'task-task_1',
    args: ['task_1'],
    answer: answering({ loadTask: task, reserveTask: { ...waiting, position: 1 } }),
  },
  'a task that is placed again and again on hosts that take no steps': {
    hours: 5,
    type: 'runTask',
    id: 'task-task_1',
    args: ['task_1'],
    answer: answering({
      loadTask: task,
      reserveTask: { placed: true, vms: [vm], term: null },
      advanceTask: [],
      issueTaskStepArgs: { stageIn: { vm, inputs: [], limits: {} }, migrationWorkflowId: null },
      stageIn: untaken,
      requeueTask: [],
    }),
  },
  'a task whose VM can not be removed': {
    type: 'runTask',
    id: 'task-task_1',
    args: ['task_1'],
    answer: answering({
      loadTask: { ...task, state: 'running' },
      reserveTask: { placed: true, vms: [vm], term: null },
      setVmState: settled,
      removeVm: refused('the domain is not ours'),
      finishTask: [],
    }),
  },
  'a task that can not be suspended, as the plan orders again and again': {
    hours: 100,
    type: 'runTask',
    id: 'task-task_1',
    args: ['task_1'],
    answer: answering({
      ...commandRuns,
      runCommand: forever,
      loadLeaseOrder: 'suspend',
      loadVmLocation: settled,
      beginSuspension: { vm, diskHostAddress: '10.77.0.1' },
      suspendVm: refused('there is no space for its memory'),
      restoreVm: undefined,
      rollBackSuspension: [],
      recordLeaseResumed: [],
    }),
    signals: [{ name: 'leaseOrderChanged', everyMs: hour }],
  },
  'a VM that waits for a host': {
    hours: 24,
    type: 'runVm',
    id: 'vm-vm_1',
    args: ['vm_1'],
    answer: answering({ loadVmDesired: { ...desired, state: 'pending' }, reserveVm: waiting }),
  },
  'a VM that is placed again and again on hosts that take no steps': {
    hours: 8,
    type: 'runVm',
    id: 'vm-vm_1',
    args: ['vm_1'],
    answer: answering({
      loadVmDesired: { ...desired, state: 'pending' },
      reserveVm: { placed: true, vm },
      issueVmSetup: { vm, user: null, files: [], firstBoot: [], swapMiB: 0 },
      stageIn: untaken,
      requeueVm: [],
    }),
  },
  'a VM that runs': { type: 'runVm', id: 'vm-vm_1', args: ['vm_1'], answer: answering({ loadVmDesired: desired }) },
  'a VM to be removed whose migration does not end': {
    type: 'runVm',
    id: 'vm-vm_1',
    args: ['vm_1'],
    answer: answering({
      loadVmDesired: { ...desired, remove: true },
      loadVmLocation: { ...settled, state: 'migrating', migrationWorkflowId: 'migrate-vm_1-2' },
    }),
  },
  'a migration that waits for its turn': {
    type: 'migrateVm',
    id: 'migrate-vm_1-2',
    args: ['migration_1'],
    answer: answering({ loadMigration: migration, reserveMigration: { admitted: false, reason: 'another one leaves host-1' } }),
  },
  'a migration whose copy does not end': {
    type: 'migrateVm',
    id: 'migrate-vm_1-2',
    args: ['migration_1'],
    answer: answering({
      ...prepared,
      packColdCopy: forever,
      observeColdCopy: { kind: 'pack', from: '10.77.0.1', doneBytes: 1, totalBytes: 2, bytesPerS: 1 },
    }),
  },
  'a migration whose outcome is not known': {
    type: 'migrateVm',
    id: 'migrate-vm_1-2',
    args: ['migration_1'],
    answer: answering({
      ...prepared,
      loadMigration: { ...migration, mode: 'live' },
      prepareIncoming: { accelerator: 'kvm' },
      observeMigration: untaken,
      migrateOut: refused('libvirtd does not answer'),
      abortMigration: undefined,
    }),
  },
  'a migration whose source can not restore its VM': {
    type: 'migrateVm',
    id: 'migrate-vm_1-2',
    args: ['migration_1'],
    answer: answering({ ...prepared, packColdCopy: refused('the disk is full'), restoreVm: refused('libvirtd does not answer') }),
  },
  'a build that waits for a host': {
    endsAfter: 6,
    type: 'buildImage',
    id: 'build-image_1',
    args: ['image_1'],
    answer: answering({ ...buildAnswers, reserveBuild: waiting }),
  },
  'a build on a host that takes no steps': {
    endsAfter: 6,
    type: 'buildImage',
    id: 'build-image_1',
    args: ['image_1'],
    answer: answering({
      ...buildAnswers,
      reserveBuild: { placed: true, vm: { ...vm, host: 'host-1', generation: 1 } },
      issueBuildStepArgs: { stageIn: { vm }, run: { vm }, store: { vm } },
      stageIn: untaken,
      removeDisks: undefined,
    }),
  },
  'templates that wait for free capacity': {
    hours: 16,
    type: 'buildTemplates',
    id: 'templates-host-1',
    args: ['host-1', 1, [vm]],
    answer: answering({ reserveTemplate: { kind: 'waits', reason: 'tasks wait for capacity' } }),
  },
  'an image that a host keeps': {
    type: 'retireImage',
    id: 'retire-image_1',
    args: ['image_1'],
    answer: answering({ listImageHosts: ['host-1', 'host-2'], removeImage: refused('in use') }),
  },
  'a drain whose host does not answer': {
    hours: 5,
    type: 'drainHost',
    id: 'drain-host-1-1',
    args: ['drain_1'],
    answer: answering({ stepDrain: drainStep, observeLoads: untaken }),
  },
  'a reservation that waits for its start': {
    hours: 5,
    type: 'reserveHosts',
    id: 'reservation-reservation_1',
    args: ['reservation_1'],
    answer: answering({
      stepReservation: { state: 'scheduled', drains: [], drainsToNotify: [], notifications: [], waitMs: null, summary: '' },
    }),
  },
  'the planner, with a change each half a minute': {
    hours: 24,
    type: 'planLeases',
    id: 'planner',
    args: [],
    answer: answering({ stepPlan: { placed: [], leaseOrderChanged: [], moves: [], wakeAt: null, leases: 1 } }),
    signals: [{ name: 'replan', everyMs: 30_000 }],
  },
  'a host that does not answer': {
    hours: 16,
    type: 'monitorHost',
    id: 'host-host-1',
    args: ['host-1'],
    answer: answering({ registerHost: [], reportLiveness: untaken, observeHost: untaken, markHostUnreachable: undefined }),
    signals: [{ name: 'hostRegistered', everyMs: 120_000, args: [facts] }],
  },
  'a host whose worker ends each minute': {
    hours: 16,
    type: 'monitorHost',
    id: 'host-host-1',
    args: ['host-1'],
    answer: answering({
      registerHost: [],
      reportLiveness: new After(60_000),
      observeHost: facts,
      markHostUnreachable: undefined,
    }),
  },
  'the record of a VM that changes while an operation is under way on it': {
    hours: 5,
    type: 'recordDomainChanges',
    id: 'domains-host-1',
    args: ['host-1', 1, ['vm_1']],
    answer: answering({ loadDomainTargets: { settled: [], busy: ['vm_1'] } }),
    signals: [{ name: 'domainsChanged', everyMs: 10_000, args: [['vm_1']] }],
  },
  'a host that asks for help again and again': {
    hours: 24,
    type: 'helpHost',
    id: 'help-host-1',
    args: ['host-1'],
    answer: answering({
      openHelp: { offered: true, summary: 'vm_1 to host-2' },
      takeOffers: [{ migration: 'migration_1', vm: 'vm_1', generation: 2 }],
      hasSettled: true,
      closeHelp: undefined,
    }),
    isRunning: () => true,
    signals: [{ name: 'helpRequested', everyMs: 10_000, args: [verdict] }],
  },
  'a host that asked for help, and a move that does not end': {
    type: 'helpHost',
    id: 'help-host-1',
    args: ['host-1', 1, verdict],
    answer: answering({
      openHelp: { offered: true, summary: 'vm_1 to host-2' },
      takeOffers: [{ migration: 'migration_1', vm: 'vm_1', generation: 2 }],
      hasSettled: false,
    }),
    isRunning: () => true,
  },
  'a webhook whose deliveries go on without a pause': {
    hours: 160,
    type: 'deliverWebhook',
    id: 'webhook-webhook_1',
    args: ['webhook_1'],
    answer: answering({ deliverEvents: new After(120_000, { owner: 'owner_1', next: 'again' }) }),
  },
  'a webhook with an event each half a minute': {
    hours: 24,
    type: 'deliverWebhook',
    id: 'webhook-webhook_1',
    args: ['webhook_1'],
    answer: answering({ deliverEvents: { owner: 'owner_1', next: 'idle' } }),
    signals: [{ name: 'wakeUp', everyMs: 30_000 }],
  },
  'a webhook whose receiver fails': {
    hours: 24,
    type: 'deliverWebhook',
    id: 'webhook-webhook_1',
    args: ['webhook_1'],
    answer: answering({
      deliverEvents: { owner: 'owner_1', next: 'retry', waitMs: 60_000, failures: 3, error: 'it answered 500' },
    }),
  },
  'a webhook whose deliveries can not begin': {
    type: 'deliverWebhook',
    id: 'webhook-webhook_1',
    args: ['webhook_1'],
    answer: answering({ deliverEvents: refused('there is no key 1 to decrypt with') }),
  },
  'the housekeeping': {
    hours: 2,
    type: 'runHousekeeping',
    id: 'housekeeping',
    args: [],
    answer: answering(housekeeping),
    isRunning: () => true,
  },
  'the reconciliation of a host': {
    hours: 160,
    type: 'reconcileHost',
    id: 'reconcile-host-1',
    args: ['host-1'],
    answer: answering({
      observeInventory: { domains: [], disks: [], taps: [], networks: [], quarantined: [], images: [] },
      compareHost: { foreignDomains: ['stranger'], foreignDisks: [], missing: [], leftovers: [] },
    }),
  },
};
