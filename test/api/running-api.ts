import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { createApp } from '../../api/app.ts';
import { openRepository, type Repository } from '../../api/repository.ts';
import { close, serve } from '../../api/serve.ts';
import { hashApiKey, newApiKey } from '../../model/api-key.ts';
import { readConfig } from '../../model/config.ts';
import { newId, type TaskId } from '../../model/ids.ts';
import { openLog } from '../../model/log.ts';
import { type Ledger, openLedger } from '../../prisma/client.ts';
import { applyMigrations } from '../../prisma/migrate.ts';
import { Contract } from './contract.ts';

export interface Party {
  ownerId: string;
  keyId: string;
  key: string;
}

/** Temporal as the API sees it; what it was asked is recorded, and it can be away. */
export function fakeWorkflows() {
  const asked: { started: TaskId[]; cancelled: TaskId[]; away: boolean } = { started: [], cancelled: [], away: false };
  const answer = async (list: TaskId[], id: TaskId) => {
    if (asked.away) throw new Error('Temporal does not answer');
    list.push(id);
  };
  return {
    asked,
    port: {
      startTask: (id: TaskId) => answer(asked.started, id),
      cancelTask: (id: TaskId) => answer(asked.cancelled, id),
      ping: async () => {
        if (asked.away) throw new Error('Temporal does not answer');
      },
    },
  };
}

async function createDatabase(server: string): Promise<{ url: string; drop(): Promise<void> }> {
  const name = `berth_api_${randomUUID().replaceAll('-', '')}`;
  const admin = new pg.Client({ connectionString: server });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${name}`);
  const url = new URL(server);
  url.pathname = `/${name}`;
  return {
    url: url.href,
    drop: async () => {
      await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}

/** The API as a process has it: listening, on a PostgreSQL of its own, with two clients and an operator. */
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
  alice!: Party;
  bob!: Party;
  operator!: Party;
  readonly #end: () => Promise<void>;

  constructor(
    parts: Omit<RunningApi, 'alice' | 'bob' | 'operator' | 'call' | 'addOwner' | 'addHost' | 'addImage' | 'end'>,
    end: () => Promise<void>,
  ) {
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
    this.#end = end;
  }

  async end(): Promise<void> {
    await this.#end();
  }

  /** A request whose answer is checked against the OpenAPI document. */
  async call(party: Party | null, method: string, path: string, init: RequestInit & { json?: unknown } = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (party) headers.set('authorization', `Bearer ${party.key}`);
    const { json, ...rest } = init;
    if (json !== undefined) {
      headers.set('content-type', 'application/json');
      rest.body = JSON.stringify(json);
    }
    const response = await fetch(new URL(path, this.base), { ...rest, method, headers });
    await this.contract.check(method, path, response.clone());
    return response;
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

/** @param env options of the API that differ from their defaults */
export async function startApi(server: string, env: Record<string, string> = {}): Promise<RunningApi> {
  const root = await mkdtemp(join(tmpdir(), 'berth-api-'));
  const database = await createDatabase(server);
  await applyMigrations(database.url);
  const signingKey = randomUUID();
  const config = readConfig(['api', 'signing'], {
    BERTH_REPOSITORY: root,
    BERTH_SIGNING_KEY: signingKey,
    BERTH_REPOSITORY_URL: 'http://127.0.0.1',
    BERTH_RATE_PER_MINUTE: '0',
    ...env,
  });
  const ledger = openLedger(database.url);
  const repositoryRoot = config.api.BERTH_REPOSITORY;
  const repository = await openRepository({
    root: repositoryRoot,
    ledger,
    maxFileBytes: config.api.BERTH_MAX_FILE_BYTES,
    quotaBytes: config.api.BERTH_QUOTA_BYTES,
  });
  const workflows = fakeWorkflows();
  const clock = { offsetMs: 0 };
  const deps = {
    ledger,
    repository,
    config,
    temporal: workflows.port,
    log: openLog('api', process.env.BERTH_LOG_LEVEL ?? 'error'),
    clock: () => Date.now() + clock.offsetMs,
  };
  const { app, operatorsApp, document } = createApp(deps);
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
      contract: new Contract(document),
    },
    async () => {
      await Promise.all(servers.map((one) => close(one, 1_000)));
      await ledger.$disconnect();
      await database.drop();
      await rm(root, { recursive: true, force: true });
    },
  );
  running.alice = await running.addOwner('alice', 'client');
  running.bob = await running.addOwner('bob', 'client');
  running.operator = await running.addOwner('site', 'operator');
  return running;
}
