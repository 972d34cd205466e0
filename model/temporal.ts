import type { HostId, ImageId, TaskId, VmId, WaiterId } from './ids.ts';

import type { MigrationId } from './migration.ts';
import type { ReservationId } from './reservation.ts';
import type { WebhookId } from './webhooks/webhook.ts';

/** Names of queues, workflows and signals. */
export const controlQueue = 'control';
export const webhooksQueue = 'webhooks';
export const hostQueue = (id: HostId): string => `host.${id}`;

export const workflowId = {
  task: (id: TaskId): string => `task-${id}`,
  vm: (id: VmId): string => `vm-${id}`,
  /** Of a task or a VM that waits for a placement. */
  waiter: (id: WaiterId): string => (id.startsWith('vm_') ? `vm-${id}` : `task-${id}`),
  host: (id: HostId): string => `host-${id}`,
  reconcile: (id: HostId): string => `reconcile-${id}`,
  domains: (id: HostId): string => `domains-${id}`,
  templates: (id: HostId): string => `templates-${id}`,
  reservation: (id: ReservationId): string => `reservation-${id}`,
  drain: (host: HostId, number: number): string => `drain-${host}-${number}`,
  migration: (vm: VmId, generation: number): string => `migrate-${vm}-${generation}`,
  recovery: (migration: MigrationId): string => `recovery-${migration}`,
  build: (name: string, digest: string): string => `image-${name}-${digest}`,
  retire: (id: ImageId): string => `retire-${id}`,
  /** `purpose` distinguishes prefetches of one image: the id of the lease's task or VM. */
  prefetch: (image: ImageId, purpose: string): string => `prefetch-${image}-${purpose}`,
  /** `readId` distinguishes concurrent reads. */
  console: (id: VmId, readId: string): string => `console-${id}-${readId}`,
  /** `linkId` distinguishes the connections of one VM's clients. */
  stream: (id: VmId, linkId: string): string => `stream-${id}-${linkId}`,
  webhook: (id: WebhookId): string => `webhook-${id}`,
  help: (id: HostId): string => `help-${id}`,
  housekeeping: (): string => 'housekeeping',
  planner: (): string => 'planner',
} as const;

export const workflowType = {
  task: 'runTask',
  vm: 'runVm',
  host: 'monitorHost',
  reconcile: 'reconcileHost',
  domains: 'recordDomainChanges',
  templates: 'buildTemplates',
  migration: 'migrateVm',
  build: 'buildImage',
  retire: 'retireImage',
  prefetch: 'prefetchImage',
  console: 'readConsole',
  stream: 'openStream',
  drain: 'drainHost',
  recovery: 'measureRecovery',
  reservation: 'reserveHosts',
  webhook: 'deliverWebhook',
  help: 'helpHost',
  housekeeping: 'runHousekeeping',
  planner: 'planLeases',
} as const;

/**
 * When a control worker is killed, its workflow tasks, with their local activities, are repeated after their timeout. For
 * workflows in which seconds matter (the deadline of a drain, the switch of a migration, the start of a promise) that is a third of Temporal's default
 * of ten seconds, so that they are taken over within five. The worker extends a task whose local activities take longer; after a
 * stall of the machine they are repeated.
 */
export const shortWorkflowTaskTimeout = { workflowTaskTimeout: 3_000 } as const;
const shortTimeoutTypes: readonly string[] = [
  workflowType.vm,
  workflowType.migration,
  workflowType.drain,
  workflowType.reservation,
  workflowType.planner,
];
/** How workflows of a type are started. */
export const workflowTaskTimeoutOf = (type: string): { workflowTaskTimeout?: number } =>
  shortTimeoutTypes.includes(type) ? shortWorkflowTaskTimeout : {};

/** To monitorHost: what became of a machine's registration. Argument: HostFacts.machine. Answers RegistrationAnswer. */
export const registrationQuery = 'registration';

/** `admitted`; why it was refused; null: it has not been looked at. */
export type RegistrationAnswer = { admitted: true } | { admitted: false; why: string } | null;

export const signalName = {
  /** To a task or a VM: it was placed; the ledger says where. */
  placed: 'placed',
  /** To a task or a VM: its VM has moved; the ledger says where to. */
  locationChanged: 'locationChanged',
  /** To a drain or a reservation: its request has changed; the ledger says how. */
  orderChanged: 'orderChanged',
  /** To a task: the plan orders its suspension or resumption; the ledger says which. */
  leaseOrderChanged: 'leaseOrderChanged',
  /** To the planner: the input of the plan has changed. */
  replan: 'replan',
  /** To a standalone VM: its owner has requested an operation; the ledger says which. */
  operationRequested: 'operationRequested',
  /** To monitorHost: the host's worker has started. Argument: HostFacts. */
  hostRegistered: 'hostRegistered',
  /** To recordDomainChanges: domains of VMs have changed without Berth. Argument: up to a hundred VM ids. */
  domainsChanged: 'domainsChanged',
  /** To helpHost: the host's watchdog asks for help. Argument: WatchVerdict. */
  helpRequested: 'helpRequested',
  /** To buildTemplates: a VM booted without a template. Argument: its VmRef. */
  templateRequested: 'templateRequested',
  /** To loops and retries: end the current pause. */
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
