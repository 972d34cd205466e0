import { randomUUID } from 'node:crypto';
import { access, constants } from 'node:fs/promises';
import express, { type Express, type RequestHandler, type Response } from 'express';
import { pinoHttp } from 'pino-http';
import { readHealth } from '../ledger/health.ts';
import { BerthError } from '../model/errors.ts';
import type { Logger } from '../model/log.ts';
import { signingKeysOf } from '../model/signed-url.ts';
import type { ApiDeps } from './deps.ts';
import { openEventFollowers } from './events/follow-events.ts';
import { FollowerShares } from './events/follower-shares.ts';
import { openLogSender } from './files/follow-log.ts';
import { type Answer, streamed } from './http/answer.ts';
import { authenticate, callerOf, openKeyring, requireMachineKey, requireOperator, requireSignature } from './http/auth.ts';
import { isLargeBody, takeRequestTurns, takeTurns } from './http/body-turns.ts';
import { refuseUnboundedJson } from './http/json-bounds.ts';
import { trackOpenRequests } from './http/open-requests.ts';
import { describeApi } from './http/openapi.ts';
import type { Operation } from './http/operation.ts';
import { answerWithProblem, notFound } from './http/problem.ts';
import { limitRate } from './http/rate-limit.ts';
import { limitUnknownKeys } from './http/unknown-keys.ts';
import { checkHealth, countSessions, labelRoute, openMetrics } from './metrics.ts';
import { trashRoutes } from './routes/data/trash.ts';
import { treeRoutes } from './routes/data/tree.ts';
import { drainRoutes } from './routes/drains.ts';
import { edgeExchangeRoutes, edgeRoutes } from './routes/edges.ts';
import { eventRoutes } from './routes/events.ts';
import { fileRoutes } from './routes/files.ts';
import { hostRoutes } from './routes/hosts.ts';
import { imageRoutes } from './routes/images.ts';
import { internalRoutes } from './routes/internal.ts';
import { keyRoutes } from './routes/keys.ts';
import { balancerRoutes } from './routes/load/balancer.ts';
import { guestRoutes } from './routes/load/guests.ts';
import { hostLoadRoutes } from './routes/load/host-batches.ts';
import { loadRoutes } from './routes/load/loads.ts';
import { migrationRoutes } from './routes/migrations.ts';
import { accountRoutes } from './routes/money/accounts.ts';
import { marketRoutes } from './routes/money/market.ts';
import { priceRoutes } from './routes/money/prices.ts';
import { statementRoutes } from './routes/money/statements.ts';
import { usageRoutes } from './routes/money/usage.ts';
import { ownerRoutes } from './routes/owners.ts';
import { portRoutes } from './routes/ports.ts';
import { repositoryRoutes } from './routes/repository.ts';
import { reservationRoutes } from './routes/reservations.ts';
import { scheduleRoutes } from './routes/schedule.ts';
import { hostStreamRoutes, streamRoutes } from './routes/streams.ts';
import { taskRoutes } from './routes/tasks.ts';
import { vmRoutes } from './routes/vms.ts';
import { webhookRoutes } from './routes/webhooks.ts';
import { expectBody } from './serve.ts';
import { Sessions } from './streams/sessions.ts';

/** Of a JSON body, unless its route says otherwise. */
const defaultBodyBytes = 64 * 1024;
const healthDeadlineMs = 2_000;

/** Gives each request one id, for the answer, every log line and a problem: the caller's X-Request-Id when it is valid. */
function requestLog(log: Logger, eachRequest: boolean): RequestHandler {
  return pinoHttp({
    logger: log,
    autoLogging: eachRequest,
    genReqId: (req, res) => {
      const given = req.headers['x-request-id'];
      const id = typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
      res.setHeader('X-Request-Id', id);
      return id;
    },
    customProps: (req) => {
      const { keyId, ownerId } = callerOf(req as express.Request);
      return keyId === '' ? {} : { keyId, owner: ownerId };
    },
    customLogLevel: (_req, res, error) => (error || res.statusCode === 500 ? 'error' : res.statusCode > 500 ? 'warn' : 'info'),
    // Errors are logged where they are answered, with their stack.
    customErrorObject: (_req, _res, _error, values: object) => ({ ...values, err: undefined }),
    serializers: {
      // Without the query: that of a signed URL grants access.
      req: (req: { id: string; method: string; url: string }) => ({
        id: req.id,
        method: req.method,
        path: req.url.split('?')[0],
      }),
      res: (res: { statusCode: number }) => ({ status: res.statusCode }),
    },
  });
}

const setSecurityHeaders: RequestHandler = (_req, res, next) => {
  res.setHeader('X-Content-Type-Options', 'nosniff');
  res.setHeader('Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'");
  res.setHeader('Referrer-Policy', 'no-referrer');
  res.setHeader('Cache-Control', 'private, no-cache');
  next();
};

const requireJson: RequestHandler = (req, res, next) => {
  if (!req.is('application/json')) {
    const found = req.get('content-type') ?? 'no Content-Type';
    throw new BerthError('unsupported-media-type', `Found ${found}; expected Content-Type: application/json`);
  }
  expectBody(req, res);
  next();
};

function send(res: Response, answer: Answer): void {
  res.status(answer.status);
  if (answer.location !== null) res.setHeader('Location', answer.location);
  if (answer.text === null) res.end();
  else res.set('Content-Type', 'application/json; charset=utf-8').end(answer.text);
}

function toHandler(operation: Operation): RequestHandler {
  return async (req, res) => {
    const answer = await operation.run(req, res, callerOf(req));
    if (answer !== streamed) send(res, answer);
  };
}

interface AccessMiddleware {
  authenticate: RequestHandler;
  limit: RequestHandler;
  /** Of all that is admitted. */
  requestTurn: RequestHandler;
  /** Of routes that make a plan of the whole site. */
  planLimit: RequestHandler;
  planTurn: RequestHandler;
  /** Before a JSON body is read. */
  bodyTurn: RequestHandler;
  signature: RequestHandler;
  hostKey: RequestHandler;
  edgeKey: RequestHandler;
}

/** The middleware of a route, by its access. */
function middlewareOf(operation: Operation, gates: AccessMiddleware): RequestHandler[] {
  const before: Record<Operation['access'], RequestHandler[]> = {
    open: [],
    signed: [gates.signature],
    host: [gates.hostKey],
    edge: [gates.edgeKey],
    client: [gates.authenticate, gates.limit, ...(operation.plans ? [gates.planLimit, gates.planTurn] : [])],
    operator: [gates.authenticate, gates.limit, requireOperator],
  };
  const body = operation.body
    ? [
        requireJson,
        gates.bodyTurn,
        express.json({
          limit: operation.maxBodyBytes ?? defaultBodyBytes,
          inflate: false,
          strict: false,
          verify: refuseUnboundedJson,
        }),
      ]
    : [];
  // Last, so that what waits for its body's turn keeps none of its owner's small requests waiting.
  return [...before[operation.access], ...body, ...(operation.access === 'client' ? [gates.requestTurn] : [])];
}

function mount(app: Express, operations: Operation[], gates: AccessMiddleware): void {
  const byPath = Map.groupBy(operations, (operation) => operation.path);
  for (const [path, here] of byPath) {
    const route = app.route(path.replace('{path}', '*path').replaceAll(/\{(\w+)\}/g, ':$1'));
    route.all(labelRoute(path));
    for (const operation of here) route[operation.method](...middlewareOf(operation, gates), toHandler(operation));
    const methods = here.flatMap(({ method }) => (method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()]));
    route.all((req, res) => {
      res.setHeader('Allow', methods.join(', '));
      throw new BerthError('method-not-allowed', `Found ${req.method}; ${path} takes ${methods.join(', ')}`);
    });
  }
}

function createBaseApp(log: Logger, eachRequest: boolean): Express {
  const app = express();
  app.disable('x-powered-by').disable('etag');
  app.enable('strict routing').enable('case sensitive routing');
  app.set('query parser', 'simple');
  app.use(requestLog(log, eachRequest), setSecurityHeaders);
  return app;
}

/** The API's application and that of the operators' port. Neither listens: see api/serve.ts. */
export function createApp(given: Omit<ApiDeps, 'sendLog' | 'events' | 'sessions'>): {
  app: Express;
  operatorsApp: Express;
  document: ReturnType<typeof describeApi>;
  sessions: Sessions;
} {
  const { ledger, temporal, repository, config, log, clock } = given;
  const sessions = new Sessions({
    temporal,
    url: config.api.BERTH_API_STREAM_URL ?? null,
    idleMs: config.api.BERTH_SESSION_IDLE_S * 1000,
    log,
  });
  const shares = new FollowerShares(config.api.BERTH_LOG_READERS_PER_OWNER);
  const sendLog = openLogSender(repository.logs, shares);
  const deps: ApiDeps = { ...given, sendLog, events: openEventFollowers(ledger, shares, log), sessions };
  const metrics = openMetrics(ledger, clock);
  countSessions(metrics.registry, sessions);
  const operations = [
    taskRoutes,
    fileRoutes,
    treeRoutes,
    trashRoutes,
    vmRoutes,
    streamRoutes,
    guestRoutes,
    migrationRoutes,
    imageRoutes,
    hostRoutes,
    edgeRoutes,
    portRoutes,
    drainRoutes,
    reservationRoutes,
    repositoryRoutes,
    eventRoutes,
    scheduleRoutes,
    ownerRoutes,
    keyRoutes,
    accountRoutes,
    priceRoutes,
    statementRoutes,
    usageRoutes,
    marketRoutes,
    webhookRoutes,
    loadRoutes,
    balancerRoutes,
  ].flatMap((routes) => routes(deps));
  const document = describeApi(operations);
  // Without authentication: serializing it for each request would be work for anybody.
  const documentText = JSON.stringify(document);

  const app = createBaseApp(log, true);
  app.use(metrics.observe);
  app.get('/openapi.json', labelRoute('/openapi.json'), (_req, res) => {
    res.type('json').end(documentText);
  });
  const internal = [...internalRoutes(deps), ...hostStreamRoutes(deps), ...edgeExchangeRoutes(deps), ...hostLoadRoutes(deps)];
  mount(app, [...operations, ...internal], {
    authenticate: authenticate({
      keyring: openKeyring(ledger, clock),
      unknownKeys: limitUnknownKeys(config.api.BERTH_UNKNOWN_KEYS_PER_MINUTE, clock),
      openRequests: trackOpenRequests(ledger, log, clock),
    }),
    limit: limitRate(config.api.BERTH_RATE_PER_MINUTE, 'requests', (caller) => caller.keyId),
    requestTurn: takeRequestTurns(),
    planLimit: limitRate(config.api.BERTH_PLANS_PER_MINUTE, 'plans', (caller) => caller.ownerId),
    planTurn: takeTurns(() => true),
    bodyTurn: takeTurns(isLargeBody),
    signature: requireSignature(signingKeysOf(config.signing), clock),
    hostKey: requireMachineKey(signingKeysOf(config.signing), 'host'),
    edgeKey: requireMachineKey(signingKeysOf(config.signing), 'edge'),
  });
  app.use(notFound, answerWithProblem);

  const operatorsApp = createBaseApp(log, false);
  operatorsApp.get('/healthz', async (_req, res) => {
    const health = await checkHealth(
      {
        ledger: () => readHealth(ledger),
        temporal: () => temporal.ping(),
        repository: () => access(repository.root, constants.W_OK),
      },
      healthDeadlineMs,
      log,
    );
    res.status(health.healthy ? 200 : 503).json({ status: health.healthy ? 'ok' : 'failed', parts: health.parts });
  });
  operatorsApp.get('/metrics', async (_req, res) => {
    res.set('Content-Type', metrics.registry.contentType).end(await metrics.registry.metrics());
  });
  operatorsApp.use(notFound, answerWithProblem);
  return { app, operatorsApp, document, sessions };
}
