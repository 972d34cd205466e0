import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Client, type WorkflowHandle, WorkflowIdConflictPolicy } from '@temporalio/client';
import { defaultPayloadConverter } from '@temporalio/common';
import { DefaultLogger, NativeConnection, Runtime, Worker, type WorkflowBundle } from '@temporalio/worker';
import { guard } from '../../activities/failure.ts';
import { byReference } from '../../activities/host/by-reference.ts';
import { createHostActivities } from '../../activities/host/index.ts';
import { watchDomains } from '../../activities/host/site/watch-domains.ts';
import { inLanes } from '../../activities/host/step-lanes.ts';
import { createLedgerActivities } from '../../activities/ledger/index.ts';
import type { HostActivities } from '../../contracts/host.ts';
import type { HostCalls } from '../../contracts/host-calls.ts';
import type { LedgerActivities } from '../../contracts/ledger.ts';
import { createFakeHost, type FakeHost, type FakeRun } from '../../drivers/fake/host.ts';
import { createFakeRepository, type FakeRepository } from '../../drivers/fake/repository.ts';
import { systemClock } from '../../drivers/host/clock.ts';
import type { Clock } from '../../drivers/ports/clock.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { acceptTask } from '../../ledger/tasks/accept-task.ts';
import { readFetchedStepArgs } from '../../ledger/tasks/fetched-step-args.ts';
import { type HostId, type ImageId, newId, type TaskId, type VmId } from '../../model/ids.ts';
import { openLog } from '../../model/log.ts';
import { type TerminalTaskState, terminalTaskStates } from '../../model/states.ts';
import { TaskSpec } from '../../model/task.ts';
import { controlQueue, hostQueue, signalName, workflowId, workflowTaskTimeoutOf, workflowType } from '../../model/temporal.ts';
import { controlLimits } from '../../workers/control-limits.ts';
import { hostLimits } from '../../workers/host-limits.ts';
import { strictBudget } from '../../workers/payload-budget.ts';
import { reportDomains } from '../../workers/report-domains.ts';
import { workflowBundle } from '../../workers/workflow-bundle.ts';
import { lightenWorkflowThreads } from '../../workers/workflow-threads/lighten.ts';
import { startPostgres } from '../services/postgres.ts';
import { startTemporal } from '../services/temporal.ts';
import { bundlesVariable } from '../services/with-bundles.ts';
import { Faults } from './faults.ts';
import { ledgerConfig } from './ledger-config.ts';

/** All waits of the workflows take a fifth of their time, so that a killed worker is noticed after two seconds. */
const usualPace = 0.2;

/** In the time of the fakes, which runs fifty times as fast: longer than any test. */
export const endless = 30 * 24 * 3600 * 1000;

/**
 * Time passes in sleeps, at a fiftieth of their length in real time: a host that polls a command for days is not idle, and
 * a dozen of them are still no load.
 */
function quickClock(): Clock {
  let nowMs = Date.UTC(2026, 0, 1);
  return {
    nowMs: () => nowMs,
    async sleep(ms, signal) {
      signal?.throwIfAborted();
      const untilMs = nowMs + ms;
      await delay(Math.min(ms / 50, 20));
      signal?.throwIfAborted();
      nowMs = Math.max(nowMs, untilMs);
    },
  };
}

/** A signed URL differs each time; here its path leads to the same bytes. */
class SourcesByPath extends Map<string, Buffer> {
  override get(url: string): Buffer | undefined {
    return super.get(new URL(url).pathname);
  }
}

const pollMs = 30;

export interface FakeSiteOptions {
  hosts?: number;
  /** The factor on the waits of workflows/durable/timeouts.ts. */
  pace?: number;
  capacity?: { vcpus: number; memoryMiB: number; diskMiB: number };
  /** Whether VMs that boot request a template: if not, all boot, and no work runs in the background after a test. */
  templates?: boolean;
  run?: (env: Record<string, string>, command: string[]) => FakeRun;
  /** How often a worker tells the server of an activity's heartbeats at most. */
  maxHeartbeatThrottleInterval?: '250ms' | '60s';
  /** The activities of a host's worker, where they differ from the plain ones. */
  hostActivities?: (host: FakeHost) => HostActivities;
}

/** A whole site without its machines: Temporal, PostgreSQL, the control worker, and host workers over strict fakes. */
export class FakeSite {
  readonly client: Client;
  readonly namespace: string;
  readonly address: string;
  readonly databaseUrl: string;
  readonly ledger: Ledger;
  readonly hosts: FakeHost[];
  readonly faults: Faults;
  readonly owner: string;
  readonly repository: FakeRepository;
  readonly pace: number;
  #poll: Promise<void> | undefined;
  readonly #workers = new Map<string, { worker: Worker; done: Promise<void> }>();
  readonly #watches = new Map<string, AbortController>();
  readonly #connection: NativeConnection;
  readonly #hostActivities: (host: FakeHost) => HostActivities;
  readonly #ends: (() => Promise<unknown>)[];
  readonly #heartbeatThrottle: '250ms' | '60s';

  constructor(
    parts: Pick<
      FakeSite,
      'client' | 'namespace' | 'address' | 'databaseUrl' | 'ledger' | 'hosts' | 'faults' | 'owner' | 'repository' | 'pace'
    >,
    connection: NativeConnection,
    hostActivities: (host: FakeHost) => HostActivities,
    ends: (() => Promise<unknown>)[],
    heartbeatThrottle: '250ms' | '60s',
  ) {
    this.client = parts.client;
    this.namespace = parts.namespace;
    this.address = parts.address;
    this.databaseUrl = parts.databaseUrl;
    this.ledger = parts.ledger;
    this.hosts = parts.hosts;
    this.faults = parts.faults;
    this.owner = parts.owner;
    this.repository = parts.repository;
    this.pace = parts.pace;
    this.#connection = connection;
    this.#hostActivities = hostActivities;
    this.#ends = ends;
    this.#heartbeatThrottle = heartbeatThrottle;
  }

  /** The ledger's activities, with which a test does by hand what a workflow does. */
  ledgerSteps(): LedgerActivities {
    return createLedgerActivities({ ledger: this.ledger, ...ledgerConfig(), clock: Date.now });
  }

  async startControl(): Promise<void> {
    const activities = this.ledgerSteps();
    await this.#start('control', {
      ...controlLimits,
      taskQueue: controlQueue,
      workflowBundle: await bundle(),
      activities: this.faults.wrap(guard(activities)),
    });
  }

  /** The planner, as a control worker starts it. */
  async startPlanner(): Promise<void> {
    await this.client.workflow.start(workflowType.planner, {
      taskQueue: controlQueue,
      workflowId: workflowId.planner(),
      ...workflowTaskTimeoutOf(workflowType.planner),
      // The housekeeping of a test may have started it.
      workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
      args: [this.pace],
    });
  }

  /** A host's worker starts, and registers its host. */
  async startHost(host: FakeHost): Promise<void> {
    await this.#start(host.id, { taskQueue: hostQueue(host.id), activities: this.faults.wrap(this.#callsOf(host)) });
    await this.client.workflow.signalWithStart(workflowType.host, {
      taskQueue: controlQueue,
      workflowId: workflowId.host(host.id),
      args: [host.id, this.pace],
      signal: signalName.hostRegistered,
      signalArgs: [await factsOf(host)],
    });
    await this.until(
      `${host.id} is up`,
      async () => (await this.ledger.host.findUnique({ where: { id: host.id } }))?.state === 'up',
    );
    // Its first comparison with the ledger would remove what a saga that is tested has left.
    const comparison = workflowId.reconcile(host.id);
    await this.until(`${host.id} was compared`, async () => (await this.detailsOf(comparison).catch(() => '')) !== '');
    const watch = new AbortController();
    this.#watches.set(host.id, watch);
    const report = (vmIds: VmId[]) => reportDomains(this.client, host.id, vmIds, openLog('test', 'silent'), this.pace);
    // Its time is real: what it waits for comes from the fake at once.
    void watchDomains(host.ports, { report, signal: watch.signal, clock: systemClock });
  }

  /** A host that fetches its arguments from the ledger itself, which the API does for it at a site. */
  #callsOf(host: FakeHost): HostCalls {
    const { signing } = ledgerConfig();
    const deps = { ledger: this.ledger, signing, clock: Date.now };
    return guard(
      byReference(this.#hostActivities(host), (vm, step) =>
        readFetchedStepArgs(deps, { host: host.id, vm: vm.id, generation: vm.generation, step }),
      ),
    );
  }

  async stopWorker(name: 'control' | HostId): Promise<void> {
    const entry = this.#workers.get(name);
    if (entry === undefined) throw new Error(`there is no worker ${name}`);
    this.#workers.delete(name);
    this.#watches.get(name)?.abort();
    entry.worker.shutdown();
    await entry.done;
  }

  async #start(name: string, options: Partial<Parameters<typeof Worker.create>[0]> & { taskQueue: string }): Promise<void> {
    const worker = await Worker.create({
      connection: this.#connection,
      dataConverter: strictBudget(),
      namespace: this.namespace,
      maxHeartbeatThrottleInterval: this.#heartbeatThrottle,
      ...hostLimits,
      shutdownForceTime: '5s',
      ...options,
    });
    this.#workers.set(name, { worker, done: worker.run() });
  }

  /** Accepts a task as the API does, with an image of its own unless one is given, so that each image has to be fetched. */
  async accept(order: Record<string, unknown> = {}): Promise<TaskId> {
    const image = order.image ?? (await this.publishImage());
    const spec = TaskSpec.parse({ image, command: ['work'], outputs: ['out/*'], ...order });
    const accepted = await this.ledger.$transaction((tx) => acceptTask(tx, { owner: this.owner, spec, nowMs: Date.now() }));
    return accepted.id as TaskId;
  }

  async start(id: TaskId): Promise<WorkflowHandle> {
    return this.client.workflow.start(workflowType.task, {
      taskQueue: controlQueue,
      workflowId: workflowId.task(id),
      args: [id, this.pace],
    });
  }

  async submit(order: Record<string, unknown> = {}): Promise<TaskId> {
    const id = await this.accept(order);
    await this.start(id);
    return id;
  }

  async ended(id: TaskId): Promise<TerminalTaskState> {
    return (await this.client.workflow.getHandle(workflowId.task(id)).result()) as TerminalTaskState;
  }

  async cancel(id: TaskId): Promise<void> {
    await this.ledger.task.update({ where: { id }, data: { cancelRequestedAt: new Date() } });
    await this.client.workflow.getHandle(workflowId.task(id)).cancel();
  }

  async detailsOf(workflow: string): Promise<string> {
    const metadata = await this.client.workflow
      .getHandle(workflow)
      .query<{ currentDetails?: string }>('__temporal_workflow_metadata');
    return metadata.currentDetails ?? '';
  }

  /** The deadline detects what never happens: a machine with other work takes many times as long as a quiet one. */
  async until(what: string, met: () => Promise<boolean>, deadlineMs = 180_000): Promise<void> {
    const endMs = Date.now() + deadlineMs;
    while (!(await met())) {
      if (Date.now() > endMs) throw new Error(`after ${deadlineMs} ms it is still not so that ${what}`);
      await this.#nextPoll();
    }
  }

  /** All who wait poll in the same turn: Prisma makes one statement of their reads, where each alone would load the ledger. */
  #nextPoll(): Promise<void> {
    this.#poll ??= delay(pollMs).then(() => {
      this.#poll = undefined;
    });
    return this.#poll;
  }

  /** An image that is ready, named by its id, and on no host yet. */
  async publishImage(): Promise<ImageId> {
    const id = newId('image');
    const part = (name: string) => {
      const content = Buffer.from(`${name} of ${id}`);
      const file = newId('file');
      this.repository.sources.set(`/internal/files/${file}`, content);
      return { file, sizeBytes: content.length, sha256: createHash('sha256').update(content).digest('hex') };
    };
    const parts = { disk: part('disk'), kernel: part('kernel'), initrd: part('initrd') };
    await this.ledger.image.create({
      data: {
        id,
        name: id,
        digest: id,
        state: 'ready',
        recipe: {},
        virtualMiB: 64,
        cmdline: 'root=/dev/vda',
        sizeBytes: 100n,
        parts,
      },
    });
    return id;
  }

  async stop(): Promise<void> {
    for (const watch of this.#watches.values()) watch.abort();
    const workers = [...this.#workers.values()];
    for (const { worker } of workers) worker.shutdown();
    await Promise.allSettled(workers.map(({ done }) => done));
    for (const end of this.#ends) await end();
  }
}

export async function openFakeSite(options: FakeSiteOptions = {}): Promise<FakeSite> {
  installQuietRuntime();
  lightenWorkflowThreads();
  const [database, temporal] = await Promise.all([startPostgres(), startTemporal()]);
  const ledger = openLedger(database.url);
  const owner = newId('owner');
  await ledger.owner.create({ data: { id: owner, name: owner } });
  const repository = withRows(ledger, owner, { ...createFakeRepository(), sources: new SourcesByPath() });
  const capacity = options.capacity ?? { vcpus: 64, memoryMiB: 65_536, diskMiB: 262_144 };
  const hosts = Array.from({ length: options.hosts ?? 3 }, (_, index) =>
    createFakeHost({
      id: `host-${index + 1}`,
      address: addressOf(`host-${index + 1}` as HostId),
      repository,
      capacity,
      clock: quickClock(),
      ...(options.run === undefined ? {} : { run: (job) => options.run!(job.env, job.argv) }),
    }),
  );
  if (options.templates !== true) for (const { ports } of hosts) ports.templates.find = async () => 'retired';
  const connection = await NativeConnection.connect({ address: temporal.address });
  const { client, namespace, address } = temporal;
  const faults = new Faults(
    (id) => client.workflow.getHandle(id).cancel(),
    (id) => endAndStartAgain(client, id),
  );
  const site = new FakeSite(
    {
      client,
      namespace,
      address,
      databaseUrl: database.url,
      ledger,
      hosts,
      faults,
      owner,
      repository,
      pace: options.pace ?? usualPace,
    },
    connection,
    options.hostActivities ?? ((host) => guard(inLanes(createHostActivities(host.ports)))),
    [() => connection.close(), () => ledger.$disconnect(), () => database.stop(), () => temporal.stop()],
    options.maxHeartbeatThrottleInterval ?? '250ms',
  );
  await site.startControl();
  await Promise.all(hosts.map((host) => site.startHost(host)));
  return site;
}

/** Storing an output of a task that is not over writes its row, as the API does. */
function withRows(ledger: Ledger, ownerId: string, repository: FakeRepository): FakeRepository {
  return {
    ...repository,
    async storeOutput(url, path, size, content, signal, attempt) {
      const stored = await repository.storeOutput(url, path, size, content, signal, attempt);
      const found = /^\/internal\/tasks\/([^/]+)\/outputs\/(\d+)$/.exec(new URL(url).pathname);
      const open = { id: found?.[1] ?? '', state: { notIn: [...terminalTaskStates] } };
      if (found === null || (await ledger.task.count({ where: open })) === 0) return stored;
      const { file: id, sizeBytes, sha256 } = stored;
      const bytes = { sizeBytes: BigInt(sizeBytes), sha256, attempt: attempt ?? null };
      const row = { ownerId, name: path, state: 'ready' as const, taskId: open.id, node: Number(found[2]) };
      await ledger.file.upsert({ where: { id }, create: { id, ...row, ...bytes }, update: bytes });
      return stored;
    },
  };
}

/** Ends a workflow from outside, and starts it again as the housekeeping does. */
async function endAndStartAgain(client: Client, id: string): Promise<void> {
  const handle = client.workflow.getHandle(id);
  const start = (await handle.fetchHistory()).events?.[0]?.workflowExecutionStartedEventAttributes;
  const args = (start?.input?.payloads ?? []).map((payload) => defaultPayloadConverter.fromPayload(payload));
  await handle.terminate('a test');
  await client.workflow.start(start?.workflowType?.name ?? '', { taskQueue: controlQueue, workflowId: id, args });
}

/** The address of a fake host on the hosts' network: its own facts name the same. */
export const addressOf = (id: HostId): string => `10.77.0.${id.split('-')[1]}`;

async function factsOf(host: FakeHost) {
  const facts = await host.ports.probe.measure();
  const images = await host.ports.imageCache.list();
  return { ...facts, hostId: host.id, images };
}

let bundled: Promise<WorkflowBundle> | undefined;

/** The workflows as a control worker runs them; saved for the other files where the project has with-bundles.ts. */
export function bundle(): Promise<WorkflowBundle> {
  bundled ??= workflowBundle(process.env[bundlesVariable] ?? null, openLog('test', 'error'));
  return bundled;
}

/** The faults of these tests would fill the screen with warnings. */
function installQuietRuntime(): void {
  Runtime.install({ logger: new DefaultLogger('ERROR'), telemetryOptions: { logging: { forward: {}, filter: 'ERROR' } } });
}
