import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { EventFeed } from '../../ledger/events/feed.ts';
import { numberAllEvents } from '../../ledger/events/number-events.ts';
import { writeEvent } from '../../ledger/events/write-event.ts';
import { acceptSecretOnce, acceptWebhookOnce } from '../../ledger/webhooks/accept-webhook.ts';
import { beginDelivery } from '../../ledger/webhooks/begin-delivery.ts';
import { acceptReplayOnce, acceptTestOnce, changeSecretRemoved, changeWebhook } from '../../ledger/webhooks/change-webhook.ts';
import { readDeliveries } from '../../ledger/webhooks/read-webhooks.ts';
import { recordFailure } from '../../ledger/webhooks/record-failure.ts';
import { type DeliveryAttempt, keptDeliveries, recordProgress } from '../../ledger/webhooks/record-progress.ts';
import { advanceIdleWebhooks, wakeWebhooks } from '../../ledger/webhooks/wake-webhooks.ts';
import { findWebhook } from '../../ledger/webhooks/webhook-row.ts';
import { readConfig } from '../../model/config.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import { parseSealingKeys } from '../../model/webhooks/sealing.ts';
import { newWebhookSecret, webhookKeyOf } from '../../model/webhooks/signature.ts';
import { isForWebhook, type WebhookId } from '../../model/webhooks/webhook.ts';
import { addOwner, empty, failure, narrowEvents, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
const hour = 3_600_000;
const keys = parseSealingKeys(`1:${randomBytes(32).toString('base64')}`);
const { api } = readConfig(['api'], { BERTH_REPOSITORY: '/nowhere', BERTH_MAX_WEBHOOKS_PER_OWNER: '5' });
const deps = () => ({ ledger: fixture.ledger, keys, clock: () => fixture.now });
const unasked = (path: string) => ({ ownerId: owner, key: null, method: 'POST', path, fingerprint: '' });
const answer = (row: { id: string }) => ({ status: 201, text: null, location: `/v1/webhooks/${row.id}` });
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await narrowEvents(fixture, 10);
});

interface Order {
  owner?: string;
  types?: string[];
  site?: boolean;
  after?: bigint | null;
  key?: Buffer;
}

async function add(order: Order = {}): Promise<WebhookId> {
  const request = {
    owner,
    url: 'https://example.net/hook?token=secret',
    description: '',
    types: [],
    site: false,
    after: null,
    key: webhookKeyOf(newWebhookSecret())!,
    sealing: keys,
    quotas: siteQuotas(api),
    nowMs: fixture.now,
    ...order,
  };
  const { id } = await acceptWebhookOnce(fixture.ledger, unasked('/v1/webhooks'), request, answer);
  return id as WebhookId;
}

let written = 0;
/** Writes events of another kind each, and numbers them. */
async function happen(count: number, whose = owner): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    written += 1;
    const at = new Date(fixture.now).toISOString();
    const data = { port: `port_${written}`, vm: 'vm_1', owner: whose, protocol: 'tcp' as const, at };
    const event = { subject: data.port, owner: whose, time: at, data: { ...data, vmPort: 1, publicAddress: '', publicPort: 1 } };
    await writeEvent(fixture.ledger, { type: 'berth.port.published', ...event }, 'reject');
  }
  await numberAllEvents(fixture.ledger);
}

const made = (seq: bigint): DeliveryAttempt => ({
  seq,
  eventId: `event_${seq}`,
  type: 'berth.port.published',
  status: 200,
  error: null,
  ms: 5,
  atMs: fixture.now,
});
const failed = (id: WebhookId, epoch: number, status: number | null = 500) =>
  recordFailure(deps(), { id, epoch, attempt: { ...made(1n), status, error: 'it answered 500' }, retryAfterS: null });
const row = (id: string) => findWebhook(fixture.ledger, null, id);
const eventsOf = async (id: string) =>
  (
    await fixture.sql<{ type: string; data: Record<string, unknown> }>(
      'SELECT type, data FROM "Event" WHERE subject = $1 ORDER BY seq',
      [id],
    )
  ).map(({ type, data }) => [type.replace('berth.webhook.', ''), data] as const);

describe('a delivery', () => {
  it('that another one has replaced records nothing', async () => {
    const id = await add();
    const first = (await beginDelivery(deps(), id))!;
    const second = (await beginDelivery(deps(), id))!;
    expect(second.epoch).toBe(first.epoch + 1);
    const progress = { id, cursor: 5n, delivered: [made(5n)], idle: false };
    expect((await recordProgress(fixture.ledger, [{ ...progress, epoch: first.epoch }], fixture.now)).size).toBe(0);
    expect((await row(id)).cursor).toBe(0n);
    expect(await failed(id, first.epoch)).toBe('superseded');
    expect(await readDeliveries(fixture.ledger, id, { limit: 10, before: null })).toEqual([]);
    expect((await recordProgress(fixture.ledger, [{ ...progress, epoch: second.epoch }], fixture.now)).has(id)).toBe(true);
    expect((await row(id)).cursor).toBe(5n);
  });

  it('never takes the cursor back, whatever it says', async () => {
    const id = await add();
    const { epoch } = (await beginDelivery(deps(), id))!;
    const at = (cursor: bigint) =>
      recordProgress(fixture.ledger, [{ id, epoch, cursor, delivered: [], idle: false }], fixture.now);
    await at(7n);
    await expect(at(6n)).rejects.toThrow('goes back');
    expect((await row(id)).cursor).toBe(7n);
  });

  it('is recorded with others in one statement, and of each the last thousand attempts are kept', async () => {
    const ids = [await add(), await add()];
    const begun = await Promise.all(ids.map(async (id) => (await beginDelivery(deps(), id))!));
    for (let from = 0; from < 1100; from += 50) {
      const delivered = Array.from({ length: 50 }, (_, n) => made(BigInt(from + n + 1)));
      const cursor = BigInt(from + 50);
      await recordProgress(
        fixture.ledger,
        begun.map(({ id, epoch }) => ({ id, epoch, cursor, delivered, idle: false })),
        fixture.now,
      );
    }
    for (const id of ids) {
      const rows = await fixture.sql<{ n: string }>('SELECT n FROM "WebhookDelivery" WHERE "webhookId" = $1 ORDER BY n', [id]);
      expect(rows.map(({ n }) => Number(n))).toEqual(Array.from({ length: keptDeliveries }, (_, n) => n + 101));
      const page = await readDeliveries(fixture.ledger, id, { limit: 2, before: 1000n });
      expect(page.map(({ n, seq }) => [n, seq])).toEqual([
        [999n, 999n],
        [998n, 998n],
        [997n, 997n],
      ]);
    }
  });
});

describe('an endpoint that fails', () => {
  it('is told after an hour, disabled after five days, and keeps its place', async () => {
    await happen(3);
    const id = await add({ after: 1n });
    const { epoch } = (await beginDelivery(deps(), id))!;
    const began = fixture.now;
    let attempts = 0;
    for (;;) {
      attempts += 1;
      const outcome = await failed(id, epoch);
      if (outcome === null) break;
      expect(outcome).not.toBe('superseded');
      fixture.now += (outcome as { waitMs: number }).waitMs;
    }
    expect(fixture.now - began).toBeGreaterThanOrEqual(5 * 24 * hour);
    expect(fixture.now - began).toBeLessThan(5 * 24 * hour + 2 * hour);
    expect(attempts).toBeGreaterThan(100);
    expect(await eventsOf(id)).toMatchObject([
      ['failing', { cursor: '1', origin: 'https://example.net', error: 'it answered 500' }],
      ['disabled', { reason: 'failing', cursor: '1', failures: attempts }],
    ]);
    expect(await row(id)).toMatchObject({ state: 'disabled', disabledReason: 'failing', cursor: 1n, retryAt: null });
    expect(await beginDelivery(deps(), id)).toBeNull();
    expect(await wakeWebhooks(fixture.ledger, null, fixture.now + hour)).toEqual([]);
    await changeWebhook(fixture.ledger, owner, id, { state: 'active' }, fixture.now);
    expect(await beginDelivery(deps(), id)).toMatchObject({ cursor: 1n });
    expect(await row(id)).toMatchObject({ state: 'active', failures: 0, failingSince: null, lastError: null });
  });

  it('is disabled at once by 410', async () => {
    const id = await add();
    const { epoch } = (await beginDelivery(deps(), id))!;
    expect(await failed(id, epoch, 410)).toBeNull();
    expect(await eventsOf(id)).toMatchObject([['disabled', { reason: 'gone', failures: 1 }]]);
  });

  it('has not failed any more once it has taken an event, and may fail again', async () => {
    const id = await add();
    const { epoch } = (await beginDelivery(deps(), id))!;
    for (let round = 0; round < 2; round += 1) {
      await failed(id, epoch);
      fixture.now += 2 * hour;
      await failed(id, epoch);
      await recordProgress(fixture.ledger, [{ id, epoch, cursor: 1n, delivered: [made(1n)], idle: false }], fixture.now);
      expect(await row(id)).toMatchObject({ failures: 0, failingSince: null, retryAt: null, lastError: null });
    }
    expect((await eventsOf(id)).map(([type]) => type)).toEqual(['failing', 'failing']);
  });
});

describe('what is kept no more', () => {
  it('is told, and deliveries go on after it', async () => {
    const id = await add();
    await happen(35);
    await fixture.sql('UPDATE "EventLog" SET floor = 20');
    expect(await beginDelivery(deps(), id)).toMatchObject({ cursor: 20n });
    expect(await eventsOf(id)).toMatchObject([['missed', { after: '0', through: '20', origin: 'https://example.net' }]]);
    expect((await beginDelivery(deps(), id))!.cursor).toBe(20n);
    expect(await eventsOf(id)).toHaveLength(1);
    const replay = (after: bigint) =>
      acceptReplayOnce(fixture.ledger, unasked('/replay'), { owner, webhook: id, after, nowMs: fixture.now }, answer);
    expect(await failure(replay(19n))).toMatchObject({ code: 'cursor-expired' });
    expect(await failure(replay(37n))).toMatchObject({ code: 'bad-request' });
    await replay(20n);
  });
});

describe('waking', () => {
  it('names the endpoints for which there are events, and none other', async () => {
    const other = await addOwner(fixture, 'bob');
    const mine = await add();
    const tasks = await add({ types: ['berth.task.*'] });
    const ports = await add({ types: ['berth.port.*'] });
    const bobs = await add({ owner: other });
    const all = await add({ site: true });
    const ids = [mine, tasks, ports, bobs, all];
    const idle = async () => {
      for (const id of ids) {
        const { epoch, cursor } = (await beginDelivery(deps(), id))!;
        await recordProgress(fixture.ledger, [{ id, epoch, cursor, delivered: [], idle: true }], fixture.now);
      }
    };
    await idle();
    expect(await wakeWebhooks(fixture.ledger, null, fixture.now)).toEqual([]);
    await happen(1);
    expect((await wakeWebhooks(fixture.ledger, [owner], fixture.now)).toSorted()).toEqual([mine, ports, all].toSorted());
    // They are not named again at once, but some seconds later, where nothing has begun.
    expect(await wakeWebhooks(fixture.ledger, [owner], fixture.now)).toEqual([]);
    fixture.now += 11_000;
    expect((await wakeWebhooks(fixture.ledger, [], fixture.now)).toSorted()).toEqual([mine, ports, all].toSorted());
    await advanceIdleWebhooks(fixture.ledger);
    expect(await Promise.all(ids.map(async (id) => (await row(id)).cursor))).toEqual([0n, 1n, 0n, 1n, 0n]);
  });

  it('names those whose deliveries have stopped without a record', async () => {
    const id = await add();
    await beginDelivery(deps(), id);
    expect(await wakeWebhooks(fixture.ledger, null, fixture.now)).toEqual([]);
    fixture.now += 91_000;
    expect(await wakeWebhooks(fixture.ledger, [], fixture.now)).toEqual([id]);
  });

  it('leaves out no event that the filter passes', async () => {
    const types = [
      'berth.port.published',
      'berth.task.accepted',
      'berth.taskforce.x',
      'berth.webhook.test',
      'berth.webhook.missed',
    ];
    const filters = [[], ['berth.port.*'], ['berth.task.*'], ['berth.task.accepted', 'berth.webhook.test'], ['berth.*']];
    const other = await addOwner(fixture, 'bob');
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...types),
        fc.constantFrom(...filters),
        fc.boolean(),
        fc.boolean(),
        fc.boolean(),
        async (type, filter, site, itsOwn, others) => {
          await fixture.sql('TRUNCATE "Webhook" CASCADE');
          const id = await add({ types: filter, site });
          const { epoch, cursor } = (await beginDelivery(deps(), id))!;
          await recordProgress(fixture.ledger, [{ id, epoch, cursor, delivered: [], idle: true }], fixture.now);
          written += 1;
          const event = { type, subject: itsOwn ? id : `subject_${written}`, ownerId: others ? other : owner };
          await fixture.sql('INSERT INTO "Event" (id, type, subject, "ownerId", time, data) VALUES ($1, $2, $3, $4, now(), $5)', [
            `event_${written}`,
            event.type,
            event.subject,
            event.ownerId,
            {},
          ]);
          await numberAllEvents(fixture.ledger);
          const woken = await wakeWebhooks(fixture.ledger, [event.ownerId], fixture.now);
          if (isForWebhook({ id, ownerId: owner, site, types: filter }, event)) expect(woken).toEqual([id]);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('the feed', () => {
  it('gives each reader every event in order, from memory or from the ledger', async () => {
    const feed = new EventFeed(fixture.ledger);
    await happen(5);
    await feed.tick();
    await happen(40);
    await feed.tick();
    const all = async (from: bigint, limit: number): Promise<bigint[]> => {
      const seen: bigint[] = [];
      for (let cursor = from; ; ) {
        const { events, next } = await feed.read(cursor, owner, () => true, limit);
        seen.push(...events.map(({ seq }) => seq));
        if (next === cursor) return seen;
        cursor = next;
      }
    };
    const expected = (from: number) => Array.from({ length: 45 - from }, (_, n) => BigInt(from + n + 1));
    for (const from of [0, 3, 5, 6, 44, 45])
      for (const limit of [1, 7, 50]) expect(await all(BigInt(from), limit)).toEqual(expected(from));
    const none = await feed.read(10n, owner, () => false, 10);
    expect(none).toEqual({ events: [], next: 45n });
    expect(feed.ownersSince(40n)).toEqual(new Set([owner]));
    expect(feed.ownersSince(45n)).toEqual(new Set());
  });

  it('wakes those who wait when there is more, when their time is over, and when they go', async () => {
    const feed = new EventFeed(fixture.ledger);
    await feed.tick();
    const going = new AbortController();
    const waits = [feed.waitBeyond(0n, 60_000, new AbortController().signal), feed.waitBeyond(99n, 60_000, going.signal)];
    await feed.waitBeyond(0n, 20, going.signal);
    await happen(1);
    await feed.tick();
    await waits[0];
    going.abort();
    await waits[1];
  });

  it('that nobody has followed for long begins anew, and leaves nothing out', async () => {
    const feed = new EventFeed(fixture.ledger);
    await feed.tick();
    await fixture.sql(`INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
      SELECT 'many_' || n, 'berth.port.published', 's', '${owner}', now(), '{}' FROM generate_series(1, 2500) n`);
    await fixture.sql('UPDATE "EventLog" SET "leastWidth" = 10000, "mostWidth" = 10000');
    await feed.tick();
    expect(feed.last).toBe(2500n);
    const seen: bigint[] = [];
    for (let cursor = 0n; cursor < 2500n; ) {
      const fed = await feed.read(cursor, owner, () => true, 500);
      seen.push(...fed.events.map(({ seq }) => seq));
      cursor = fed.next;
    }
    expect(seen).toEqual(Array.from({ length: 2500 }, (_, n) => BigInt(n + 1)));
  });
});

describe('secrets', () => {
  const rotate = (id: string, key: Buffer, keepMs: number) =>
    acceptSecretOnce(
      fixture.ledger,
      unasked('/secrets'),
      { owner, webhook: id, key, sealing: keys, othersExpireAtMs: fixture.now + keepMs, nowMs: fixture.now },
      (_, secret) => ({ status: 201, text: secret, location: null }),
    );

  it('lie encrypted, and overlap while one replaces another', async () => {
    const [first, second] = [randomBytes(32), randomBytes(40)];
    const id = await add({ key: first });
    expect((await beginDelivery(deps(), id))!.keys).toEqual([first]);
    const stored = JSON.stringify(
      await fixture.sql(`SELECT encode(sealed, 'base64') AS b, encode(sealed, 'hex') AS h FROM "WebhookSecret"`),
    );
    for (const form of ['base64', 'hex'] as const) expect(stored).not.toContain(first.toString(form).slice(0, 20));
    fixture.now += 1000;
    await rotate(id, second, hour);
    expect((await beginDelivery(deps(), id))!.keys).toEqual([second, first]);
    fixture.now += hour;
    expect((await beginDelivery(deps(), id))!.keys).toEqual([second]);
    const [last] = (await row(id)).secrets;
    expect(await failure(changeSecretRemoved(fixture.ledger, owner, id, last!.id, fixture.now))).toMatchObject({
      code: 'conflict',
    });
    for (let n = 0; n < 3; n += 1) await rotate(id, randomBytes(32), hour);
    expect(await failure(rotate(id, randomBytes(32), hour))).toMatchObject({ code: 'conflict' });
  });
});

describe('an owner', () => {
  it('has so many webhooks at most, also when it adds them at once', async () => {
    const outcomes = await Promise.allSettled(Array.from({ length: 12 }, () => add()));
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(5);
    const refused = outcomes.find(({ status }) => status === 'rejected') as PromiseRejectedResult;
    expect(refused.reason).toMatchObject({ code: 'quota-exceeded', extra: { quota: 'webhooks', limit: 5 } });
  });

  it('tests an endpoint that is active', async () => {
    const id = await add();
    const test = () =>
      acceptTestOnce(fixture.ledger, unasked('/test'), { owner, webhook: id, keyId: 'key_1', nowMs: fixture.now }, answer);
    await test();
    await test();
    expect(await eventsOf(id)).toMatchObject([
      ['test', { webhook: id, by: 'key_1' }],
      ['test', { webhook: id, by: 'key_1' }],
    ]);
    await changeWebhook(fixture.ledger, owner, id, { state: 'disabled' }, fixture.now);
    expect(await failure(test())).toMatchObject({ code: 'conflict' });
    expect((await eventsOf(id)).at(-1)).toMatchObject(['disabled', { reason: 'owner', failures: 0, error: null, since: null }]);
  });
});
