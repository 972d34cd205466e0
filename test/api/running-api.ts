import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import type { z } from 'zod';
import { createApp } from '../../api/app.ts';
import { openRepository, type Repository } from '../../api/files/repository.ts';
import type { File } from '../../api/schemas/files.ts';
import type { Problem } from '../../api/schemas/problem.ts';
import type { Task } from '../../api/schemas/tasks.ts';
import { close, serve } from '../../api/serve.ts';
import type { DrainName, MigrationName } from '../../api/temporal.ts';
import type { StreamOrder } from '../../contracts/stream.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { hashApiKey, newApiKey } from '../../model/api-key.ts';
import { readConfig } from '../../model/config.ts';
import { type ConsolePage, type ConsoleRange, consoleSpan } from '../../model/console.ts';
import type { DrainId } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { type HostId, type ImageId, newId, type TaskId, type VmId } from '../../model/ids.ts';
import type { MigrationId } from '../../model/migration.ts';
import type { ReservationId } from '../../model/reservation.ts';
import { signUrl } from '../../model/signed-url.ts';
import { isTerminal, type TaskState } from '../../model/states.ts';
import type { WebhookId } from '../../model/webhooks/webhook.ts';
import { startPostgres } from '../services/postgres.ts';
import { Contract } from './contract.ts';

export interface Party {
  ownerId: string;
  keyId: string;
  key: string;
}

/** Temporal as the API sees it; its calls are recorded, and it can be made unreachable. */
export function fakeWorkflows() {
  const requested = {
    started: [] as TaskId[],
    cancelled: [] as TaskId[],
    vms: [] as VmId[],
    notified: [] as VmId[],
    moved: [] as MigrationId[],
    aborted: [] as MigrationId[],
    looks: 0,
    reconciled: [] as HostId[],
    drained: [] as DrainId[],
    changed: [] as DrainId[],
    reserved: [] as ReservationId[],
    builds: [] as ImageId[],
    cancelledBuilds: [] as ImageId[],
    retired: [] as ImageId[],
    webhooks: [] as WebhookId[],
    away: false,
    /** The consoles, by VM; reading any other fails with the error. */
    consoles: new Map<string, string>(),
    /** What the VM's host does for a session. */
    openStream: async (_order: StreamOrder): Promise<void> => {
      throw new BerthError('host-unavailable', 'The host does not answer');
    },
    consoleTrouble: new BerthError('host-unavailable', 'The host does not answer'),
  };
  const answer = async <T>(list: T[], id: T) => {
    if (requested.away) throw new Error('Temporal does not answer');
    list.push(id);
  };
  return {
    requested,
    port: {
      startTask: (id: TaskId) => answer(requested.started, id),
      cancelTask: (id: TaskId) => answer(requested.cancelled, id),
      startVm: (id: VmId) => answer(requested.vms, id),
      notifyVm: (id: VmId) => answer(requested.notified, id),
      startMigration: ({ id }: MigrationName) => answer(requested.moved, id),
      abortMigration: ({ id }: MigrationName) => answer(requested.aborted, id),
      notifyHousekeeping: async () => {
        if (requested.away) throw new Error('Temporal does not answer');
        requested.looks += 1;
      },
      notifyReconciliation: (id: HostId) => answer(requested.reconciled, id),
      startReservation: (id: ReservationId) => answer(requested.reserved, id),
      notifyReservation: (id: ReservationId) => answer(requested.reserved, id),
      startDrain: ({ id }: DrainName) => answer(requested.drained, id),
      notifyDrain: ({ id }: DrainName) => answer(requested.changed, id),
      startBuild: (id: ImageId) => answer(requested.builds, id),
      cancelBuild: (id: ImageId) => answer(requested.cancelledBuilds, id),
      startRetirement: (id: ImageId) => answer(requested.retired, id),
      readConsole: async (id: VmId, range: ConsoleRange): Promise<ConsolePage> => {
        const text = requested.consoles.get(id);
        if (requested.away || text === undefined) throw requested.consoleTrouble;
        const all = Buffer.from(text);
        const { from, to } = consoleSpan(range, all.length);
        return { from, totalBytes: all.length, base64: all.subarray(from, to).toString('base64') };
      },
      openStream: async (_id: VmId, order: StreamOrder): Promise<void> => requested.openStream(order),
      wakeWebhook: (id: WebhookId) => answer(requested.webhooks, id),
      ping: async () => {
        if (requested.away) throw new Error('Temporal does not answer');
      },
    },
  };
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

export type Init = Omit<RequestInit, 'method'> & { json?: unknown };
export type FileBody = z.output<typeof File>;
export type TaskBody = z.output<typeof Task>;
export type ProblemBody = z.output<typeof Problem>;
export interface Page<T> {
  items: T[];
  next: string | null;
}
export interface Answer<T> {
  status: number;
  headers: Headers;
  text: string;
  body: T;
}

type Method =
  | 'alice'
  | 'bob'
  | 'operator'
  | 'fetch'
  | 'call'
  | 'put'
  | 'signed'
  | 'advance'
  | 'addOwner'
  | 'addHost'
  | 'addImage'
  | 'runOn'
  | 'end';

/** The API as in a process: listening, on a PostgreSQL of its own, with two clients and an operator. */
export class RunningApi {
  readonly base: string;
  readonly operatorsBase: string;
  readonly signingKey: string;
  readonly ledger: Ledger;
  readonly databaseUrl: string;
  readonly repository: Repository;
  readonly root: string;
  readonly workflows: ReturnType<typeof fakeWorkflows>;
  readonly contract: Contract;
  readonly clock: { offsetMs: number };
  /** Lines of the API's log. */
  readonly logged: string[];
  alice!: Party;
  bob!: Party;
  operator!: Party;
  readonly #end: () => Promise<void>;

  constructor(parts: Omit<RunningApi, Method>, end: () => Promise<void>) {
    this.base = parts.base;
    this.operatorsBase = parts.operatorsBase;
    this.signingKey = parts.signingKey;
    this.ledger = parts.ledger;
    this.databaseUrl = parts.databaseUrl;
    this.repository = parts.repository;
    this.root = parts.root;
    this.workflows = parts.workflows;
    this.contract = parts.contract;
    this.clock = parts.clock;
    this.logged = parts.logged;
    this.#end = end;
  }

  async end(): Promise<void> {
    await this.#end();
  }

  /** Sends a request unchanged, and validates its answer against the OpenAPI document. */
  async fetch(party: Party | null, method: string, path: string, init: Init = {}): Promise<Response> {
    const { json, ...rest } = init;
    const headers = new Headers(init.headers);
    if (party) headers.set('authorization', `Bearer ${party.key}`);
    if (json !== undefined) headers.set('content-type', 'application/json');
    const body = json === undefined ? (init.body ?? null) : JSON.stringify(json);
    const response = await fetch(new URL(path, this.base), { ...rest, method, headers, body });
    await this.contract.check(method, path, response.clone());
    return response;
  }

  /** The same for answers in JSON, with their body. */
  async call<T = ProblemBody>(party: Party | null, method: string, path: string, init: Init = {}): Promise<Answer<T>> {
    const response = await this.fetch(party, method, path, init);
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, body: (text === '' ? null : JSON.parse(text)) as T };
  }

  /** Stores a file and returns the answer. */
  async put(party: Party, name: string, bytes: string | Uint8Array): Promise<FileBody> {
    const { status, body, text } = await this.call<FileBody>(party, 'POST', `/v1/files?name=${encodeURIComponent(name)}`, {
      body: bytes,
    });
    if (status !== 201) throw new Error(`The file was not stored: ${text}`);
    return body;
  }

  /** A URL as the control workers sign them for hosts. */
  signed(method: string, path: string, lifetimeS = 60): string {
    return signUrl(this.signingKey, this.base, method, path, Date.now(), lifetimeS);
  }

  /** Advances a task to the state that its workflow would have reached. */
  async advance(id: string, ...states: TaskState[]): Promise<void> {
    for (const state of states) {
      const finishedAt = isTerminal(state) ? new Date(Date.now() + this.clock.offsetMs) : null;
      await this.ledger.task.update({ where: { id }, data: { state, finishedAt } });
    }
  }

  async addOwner(
    name: string,
    role: 'client' | 'operator',
    limits: { maxBytes?: bigint; maxQueued?: number } = {},
  ): Promise<Party> {
    const party = { ownerId: newId('owner'), keyId: newId('key'), key: newApiKey() };
    await this.ledger.owner.create({
      data: { id: party.ownerId, name, ...limits, keys: { create: { id: party.keyId, role, hash: hashApiKey(party.key) } } },
    });
    return party;
  }

  async addHost(id: string, size = { vcpus: 8, memoryMiB: 8192, diskMiB: 100_000 }): Promise<void> {
    const address = `192.0.2.${1 + (await this.ledger.host.count())}`;
    const facts = { provider: 'test', cpuModel: 'qemu64', accelerator: 'qemu', hypervisor: 'QEMU', bootId: 'boot' };
    await this.ledger.host.create({ data: { id, address, state: 'up', ...size, ...facts, seenAt: new Date() } });
  }

  /** As if a task's VM were placed and had booted. */
  async runOn(vm: string, hostId: string): Promise<void> {
    await this.ledger.vm.update({ where: { id: vm }, data: { state: 'reserved', hostId, homeId: hostId, generation: 1 } });
    await this.ledger.vm.update({ where: { id: vm }, data: { state: 'creating' } });
    await this.ledger.vm.update({ where: { id: vm }, data: { state: 'running' } });
  }

  async addImage(name: string, owner: Party | null = null): Promise<string> {
    const id = newId('image');
    const row = { name, digest: id, virtualMiB: 1024, cmdline: 'console=ttyS0', sizeBytes: 1n, recipe: {}, parts: {} };
    await this.ledger.image.create({ data: { id, ...row, state: 'ready', ownerId: owner?.ownerId ?? null } });
    return id;
  }
}

function address(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/**
 * @param env options of the API that differ from their defaults
 * @param route the database's address, as the API's configuration has it
 */
export async function startApi(
  env: Record<string, string> = {},
  route: (databaseUrl: string) => Promise<string> = async (url) => url,
): Promise<RunningApi> {
  const root = join(tmpdir(), `berth-api-${randomUUID()}`);
  const signingKey = randomUUID();
  const config = readConfig(['api', 'signing', 'webhooks'], {
    BERTH_WEBHOOK_KEYS: `1:${randomBytes(32).toString('base64')}`,
    BERTH_REPOSITORY: root,
    BERTH_SIGNING_KEY: signingKey,
    BERTH_REPOSITORY_URL: 'http://127.0.0.1',
    BERTH_RATE_PER_MINUTE: '0',
    ...env,
  });
  // A configuration that is refused leaves nothing.
  await mkdir(root);
  const database = await startPostgres();
  const ledger = openLedger(await route(database.url));
  const repositoryRoot = config.api.BERTH_REPOSITORY;
  const repository = await openRepository({
    root: repositoryRoot,
    ledger,
    maxFileBytes: config.api.BERTH_MAX_FILE_BYTES,
    quotaBytes: config.api.BERTH_QUOTA_BYTES,
  });
  const workflows = fakeWorkflows();
  const logged: string[] = [];
  const clock = { offsetMs: 0 };
  const deps = {
    ledger,
    repository,
    config,
    temporal: workflows.port,
    log: pino({ level: 'info' }, { write: (line) => void logged.push(line) }),
    clock: () => Date.now() + clock.offsetMs,
  };
  const { app, operatorsApp, document, sessions } = createApp(deps);
  const servers = await Promise.all([app, operatorsApp].map((one) => serve(one, { port: 0, host: '127.0.0.1' })));
  const [api, operators] = servers as [Server, Server];
  const running = new RunningApi(
    {
      base: address(api),
      operatorsBase: address(operators),
      signingKey,
      ledger,
      databaseUrl: database.url,
      repository,
      root: repositoryRoot,
      workflows,
      clock,
      logged,
      contract: new Contract(document),
    },
    async () => {
      // A test that has failed leaves its sessions open, which are no connections of HTTP any more.
      sessions.close();
      await Promise.all(servers.map((one) => close(one, 1_000)));
      await ledger.$disconnect();
      await database.stop();
      await rm(root, { recursive: true, force: true });
    },
  );
  running.alice = await running.addOwner('alice', 'client');
  running.bob = await running.addOwner('bob', 'client');
  running.operator = await running.addOwner('site', 'operator');
  return running;
}
