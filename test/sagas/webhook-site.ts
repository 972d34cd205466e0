import { randomBytes } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Client } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { Webhook } from 'standardwebhooks';
import { guard } from '../../activities/failure.ts';
import { createLedgerActivities } from '../../activities/ledger/index.ts';
import { type DeliveryTiming, openDeliverer, type WebhookDeps } from '../../activities/webhooks/deliver-events.ts';
import { webhookEndpoints } from '../../drivers/webhooks/endpoint.ts';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { EventFeed } from '../../ledger/events/feed.ts';
import { numberAllEvents } from '../../ledger/events/number-events.ts';
import { writeEvent } from '../../ledger/events/write-event.ts';
import { acceptWebhookOnce } from '../../ledger/webhooks/accept-webhook.ts';
import { readConfig } from '../../model/config.ts';
import { newId } from '../../model/ids.ts';
import { openLog } from '../../model/log.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import { controlQueue, signalName, webhooksQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { parseSealingKeys } from '../../model/webhooks/sealing.ts';
import { newWebhookSecret, webhookKeyOf } from '../../model/webhooks/signature.ts';
import type { WebhookId } from '../../model/webhooks/webhook.ts';
import { strictBudget } from '../../workers/payload-budget.ts';
import { startWakingWebhooks } from '../../workers/webhooks/wake-webhooks.ts';
import { startPostgres } from '../services/postgres.ts';
import { startTemporal } from '../services/temporal.ts';
import { bundle } from './fake-site.ts';
import { Faults } from './faults.ts';
import { ledgerConfig } from './ledger-config.ts';

/** What a receiver answers to the nth request; nothing: it does not answer. */
export type Answering = (n: number) => { status: number; headers?: Record<string, string> } | null;

/** A receiver that keeps what it took, and verifies each request by the reference library. */
export class Receiver {
  readonly url: string;
  readonly secret: string;
  readonly #server: Server;
  answering: Answering = () => ({ status: 200 });
  /** Sequences of what it took, in their order. */
  readonly taken: number[] = [];
  /** From the event's time until it came, of the first attempt of each. */
  readonly lagMs: number[] = [];
  requests = 0;
  readonly problems: unknown[] = [];

  private constructor(server: Server, secret: string) {
    this.#server = server;
    this.secret = secret;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`;
  }

  static async start(): Promise<Receiver> {
    const secret = newWebhookSecret();
    const verifier = new Webhook(secret);
    const server = createServer(async (req, res) => {
      const chunks: Buffer[] = [];
      for await (const chunk of req) chunks.push(chunk as Buffer);
      receiver.requests += 1;
      const answer = receiver.answering(receiver.requests);
      if (answer === null) return;
      try {
        const body = Buffer.concat(chunks).toString('utf8');
        const event = verifier.verify(body, req.headers as Record<string, string>) as { sequence: string; time: string };
        if (answer.status < 300) {
          const seq = Number(event.sequence);
          if (!receiver.taken.includes(seq)) receiver.lagMs.push(Date.now() - Date.parse(event.time));
          receiver.taken.push(seq);
        }
      } catch (error) {
        receiver.problems.push(error);
      }
      res.writeHead(answer.status, answer.headers).end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const receiver = new Receiver(server, secret);
    return receiver;
  }

  /** In the order in which it took each the first time. */
  firsts(): number[] {
    return [...new Set(this.taken)];
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

const quick: DeliveryTiming = { sliceMs: 20_000, lingerMs: 1000, recordMs: 100 };

/** Deliveries of a site without hosts: PostgreSQL, Temporal, a worker of both queues, and what wakes the workflows. */
export class WebhookSite {
  readonly ledger: Ledger;
  readonly client: Client;
  readonly databaseUrl: string;
  readonly faults: Faults;
  readonly attempts: { taken: boolean; ms: number; lagMs: number }[] = [];
  readonly keys: string;
  readonly address: string;
  readonly namespace: string;
  /** Waits of the workflows, as a factor. */
  readonly pace: number;
  #events = 0;
  readonly #connection: NativeConnection;
  readonly #ends: (() => Promise<unknown>)[];
  #worker: { stop: () => Promise<void> } | null = null;

  private constructor(
    parts: Pick<WebhookSite, 'ledger' | 'client' | 'databaseUrl' | 'keys' | 'address' | 'namespace' | 'pace'>,
    connection: NativeConnection,
    ends: (() => Promise<unknown>)[],
  ) {
    this.ledger = parts.ledger;
    this.client = parts.client;
    this.databaseUrl = parts.databaseUrl;
    this.keys = parts.keys;
    this.address = parts.address;
    this.namespace = parts.namespace;
    this.pace = parts.pace;
    this.#connection = connection;
    this.#ends = ends;
    this.faults = new Faults(
      (id) => this.client.workflow.getHandle(id).cancel(),
      async (id) => {
        await this.client.workflow.getHandle(id).terminate('a test');
        await this.start(id.replace('webhook-', '') as WebhookId);
      },
    );
  }

  static async open(pace = 0.2): Promise<WebhookSite> {
    Runtime.install({ logger: new DefaultLogger('ERROR'), telemetryOptions: { logging: { forward: {}, filter: 'ERROR' } } });
    const [database, temporal] = await Promise.all([startPostgres(), startTemporal()]);
    const ledger = openLedger(database.url, 20);
    const connection = await NativeConnection.connect({ address: temporal.address });
    const { client, address, namespace } = temporal;
    const keys = `1:${randomBytes(32).toString('base64')}`;
    return new WebhookSite({ ledger, client, databaseUrl: database.url, keys, address, namespace, pace }, connection, [
      () => connection.close(),
      () => ledger.$disconnect(),
      () => database.stop(),
      () => temporal.stop(),
    ]);
  }

  async startWorker(more: Partial<WebhookDeps> = {}): Promise<void> {
    const feed = new EventFeed(this.ledger);
    const deliverer = openDeliverer({
      ledger: this.ledger,
      feed,
      keys: parseSealingKeys(this.keys),
      open: webhookEndpoints({ allowInternal: true, timeoutMs: 1000 }),
      clock: Date.now,
      timing: quick,
      onAttempt: (attempt) => this.attempts.push(attempt),
      ...more,
    });
    const common = { connection: this.#connection, namespace: this.namespace, dataConverter: strictBudget() };
    const deliveries = await Worker.create({
      ...common,
      taskQueue: webhooksQueue,
      activities: this.faults.wrap(guard(deliverer.activities)),
      maxConcurrentActivityTaskExecutions: 1000,
      maxHeartbeatThrottleInterval: '250ms',
      shutdownForceTime: '2s',
    });
    const workflows = await Worker.create({
      ...common,
      taskQueue: controlQueue,
      workflowBundle: await bundle(),
      activities: guard(createLedgerActivities({ ledger: this.ledger, ...ledgerConfig(), clock: Date.now })),
    });
    const running = [deliveries.run(), workflows.run()];
    const log = openLog('test', 'silent');
    const { ledger, client, pace } = this;
    const waking = startWakingWebhooks({ ledger, client, feed, deliverer, log, clock: Date.now, pace });
    this.#worker = {
      stop: async () => {
        await waking.stop();
        for (const worker of [deliveries, workflows]) worker.shutdown();
        await Promise.all(running);
      },
    };
  }

  async stopWorker(): Promise<void> {
    await this.#worker?.stop();
    this.#worker = null;
  }

  async owner(): Promise<string> {
    const id = newId('owner');
    await this.ledger.owner.create({ data: { id, name: id } });
    return id;
  }

  /** Adds a webhook, and starts its workflow, as the API does. */
  async add(receiver: Pick<Receiver, 'url' | 'secret'>, owner: string, types: string[] = []): Promise<WebhookId> {
    const { api } = readConfig(['api'], { BERTH_REPOSITORY: '/nowhere', BERTH_MAX_WEBHOOKS_PER_OWNER: '1000' });
    const order = {
      owner,
      url: receiver.url,
      description: '',
      types,
      site: false,
      after: null,
      key: webhookKeyOf(receiver.secret)!,
      sealing: parseSealingKeys(this.keys),
      quotas: siteQuotas(api),
      nowMs: Date.now(),
    };
    const request = { ownerId: owner, key: null, method: 'POST', path: '/v1/webhooks', fingerprint: '' };
    const { id } = await acceptWebhookOnce(this.ledger, request, order, (row) => ({
      status: 201,
      text: null,
      location: `/v1/webhooks/${row.id}`,
    }));
    await this.start(id as WebhookId);
    return id as WebhookId;
  }

  async start(id: WebhookId): Promise<void> {
    await this.client.workflow.signalWithStart(workflowType.webhook, {
      taskQueue: controlQueue,
      workflowId: workflowId.webhook(id),
      args: [id, this.pace],
      signal: signalName.wakeUp,
    });
  }

  /** Writes an event of an owner. */
  async happen(owner: string): Promise<void> {
    this.#events += 1;
    const at = new Date().toISOString();
    const data = { port: `port_${this.#events}_${newId('port')}`, vm: 'vm_1', owner, protocol: 'tcp' as const, at };
    const event = { subject: data.port, owner, time: at, data: { ...data, vmPort: 1, publicAddress: '', publicPort: 1 } };
    await writeEvent(this.ledger, { type: 'berth.port.published', ...event }, 'reject');
  }

  /** The sequences of an owner's events that have happened by now. */
  async sequences(owner: string): Promise<number[]> {
    await numberAllEvents(this.ledger);
    const rows = await this.ledger.event.findMany({
      where: { ownerId: owner, seq: { gt: 0 } },
      orderBy: { seq: 'asc' },
      select: { seq: true },
    });
    return rows.map(({ seq }) => Number(seq));
  }

  async row(id: WebhookId) {
    return this.ledger.webhook.findUniqueOrThrow({ where: { id } });
  }

  async until(what: string, met: () => Promise<boolean> | boolean, deadlineMs = 90_000): Promise<void> {
    const endMs = Date.now() + deadlineMs;
    while (!(await met())) {
      if (Date.now() > endMs) throw new Error(`after ${deadlineMs} ms it is still not so that ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }

  async stop(): Promise<void> {
    await this.stopWorker();
    for (const end of this.#ends) await end();
  }
}
