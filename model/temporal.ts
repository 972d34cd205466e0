import type { HostId, ImageId, TaskId, VmId, WaiterId } from './ids.ts';

import type { MigrationId } from './migration.ts';
import type { ReservationId } from './reservation.ts';

/** The names by which workflows, queues and signals are known to each other and to operators. */
export const controlQueue = 'control';
export const hostQueue = (id: HostId): string => `host.${id}`;

export const workflowId = {
  task: (id: TaskId): string => `task-${id}`,
  vm: (id: VmId): string => `vm-${id}`,
  /** Of what waits for a host. */
  waiter: (id: WaiterId): string => (id.startsWith('vm_') ? `vm-${id}` : `task-${id}`),
  host: (id: HostId): string => `host-${id}`,
  reconcile: (id: HostId): string => `reconcile-${id}`,
  templates: (id: HostId): string => `templates-${id}`,
  reservation: (id: ReservationId): string => `reservation-${id}`,
  drain: (host: HostId, number: number): string => `drain-${host}-${number}`,
  migration: (vm: VmId, generation: number): string => `migrate-${vm}-${generation}`,
  recovery: (migration: MigrationId): string => `recovery-${migration}`,
  /** `purpose` tells apart who wants it: a lease, a drain. */
  build: (name: string, digest: string): string => `image-${name}-${digest}`,
  retire: (id: ImageId): string => `retire-${id}`,
  prefetch: (image: ImageId, purpose: string): string => `prefetch-${image}-${purpose}`,
  /** `reading` tells apart those who read at the same time. */
  console: (id: VmId, readId: string): string => `console-${id}-${readId}`,
  housekeeping: (): string => 'housekeeping',
  planner: (): string => 'planner',
} as const;

export const workflowType = {
  task: 'runTask',
  vm: 'runVm',
  host: 'monitorHost',
  reconcile: 'reconcileHost',
  templates: 'buildTemplates',
  migration: 'migrateVm',
  build: 'buildImage',
  retire: 'retireImage',
  prefetch: 'prefetchImage',
  console: 'readConsole',
  drain: 'drainHost',
  recovery: 'measureRecovery',
  reservation: 'reserveHosts',
  housekeeping: 'runHousekeeping',
  planner: 'planLeases',
} as const;

/**
 * A control worker that is killed had workflow tasks under way, and its steps on the ledger within them: these are taken
 * up when the task's time is over. Where somebody waits by the second (a deadline of a drain, a move in its hand-over) that
 * is half of the ten seconds that are Temporal's own. A task that takes longer, because the ledger does, is kept alive by
 * its worker; of one that came to nothing on a machine that stalls, its steps are repeated.
 */
export const shortWorkflowTaskTimeout = { workflowTaskTimeout: 5_000 } as const;
const shortTimeoutTypes: readonly string[] = [
  workflowType.vm,
  workflowType.migration,
  workflowType.drain,
  workflowType.reservation,
];
/** How workflows of a type are started. */
export const workflowTaskTimeoutOf = (type: string): { workflowTaskTimeout?: number } =>
  shortTimeoutTypes.includes(type) ? shortWorkflowTaskTimeout : {};

export const signalName = {
  /** To a task: it was placed; it should ask the ledger where. */
  placed: 'placed',
  /** To a task or a migration: where one of its VMs is has changed, or room for it; it should ask the ledger. */
  locationChanged: 'locationChanged',
  /** To a drain: what was asked of it has changed; it should ask the ledger. */
  orderChanged: 'orderChanged',
  /** To a task: the plan wants its work suspended, or to go on; it should ask the ledger. */
  leaseOrderChanged: 'leaseOrderChanged',
  /** To the planner: something has changed that the plan is made from. */
  replan: 'replan',
  /** To the workflow of a VM that stands alone: its owner asks something of it; the ledger says what. */
  operationRequested: 'operationRequested',
  /** To a host's workflow: its worker has started. Carries HostFacts. */
  hostRegistered: 'hostRegistered',
  /** To a host's templates: a VM had to boot for want of one. Carries its VmSpec. */
  templateRequested: 'templateRequested',
  /** To a host's reconciliation, or to the housekeeping: don't wait for the next round. */
  wakeUp: 'wakeUp',
} as const;

/** Search attributes; the server must know them, with their types, before the first workflow starts. */
export const searchAttributeTypes = {
  BerthOwner: 'Keyword',
  /** A gang has several. */
  BerthHost: 'KeywordList',
  BerthVm: 'KeywordList',
  BerthState: 'Keyword',
} as const;
export const searchAttributes = Object.keys(searchAttributeTypes) as (keyof typeof searchAttributeTypes)[];
