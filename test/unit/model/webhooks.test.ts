import { createHmac, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { describe, expect, it } from 'vitest';
import { cloudEventOf, webhookMessageOf } from '../../../model/webhooks/message.ts';
import { disabledAfterMs, retryAfterOf, retryDelayMs } from '../../../model/webhooks/retry.ts';
import { openSealed, parseSealingKeys, sealSecret } from '../../../model/webhooks/sealing.ts';
import { newWebhookSecret, webhookHeaders, webhookKeyOf } from '../../../model/webhooks/signature.ts';
import { isForWebhook, WebhookType, WebhookUrl } from '../../../model/webhooks/webhook.ts';

const event = {
  seq: 42n,
  id: 'task_1/berth.task.succeeded',
  type: 'berth.task.succeeded',
  subject: 'task_1',
  ownerId: 'owner_1',
  time: new Date('2026-11-30T12:00:00Z'),
  data: { name: 'naïve ☃ "quoted"' },
};
const nowS = () => Math.floor(Date.now() / 1000);

describe('a signature', () => {
  it('is one that the reference library of Standard Webhooks takes, with any of the secrets', () => {
    const message = webhookMessageOf(cloudEventOf(event));
    const secrets = [newWebhookSecret(), newWebhookSecret(), `whsec_${randomBytes(64).toString('base64')}`];
    const headers = webhookHeaders(
      message,
      nowS(),
      secrets.map((secret) => webhookKeyOf(secret)!),
    );
    for (const secret of secrets)
      expect(new Webhook(secret).verify(message.body, headers)).toMatchObject({
        type: event.type,
        timestamp: '2026-11-30T12:00:00.000Z',
        data: event.data,
        sequence: '42',
      });
    expect(() => new Webhook(newWebhookSecret()).verify(message.body, headers)).toThrow('No matching signature');
    expect(() => new Webhook(secrets[0]!).verify(`${message.body} `, headers)).toThrow('No matching signature');
  });

  it('is the one that the library makes', () => {
    const secret = newWebhookSecret();
    const { id, body } = webhookMessageOf(cloudEventOf(event));
    const at = new Date(1_700_000_000_000);
    const made = webhookHeaders({ id, body }, at.getTime() / 1000, [webhookKeyOf(secret)!]);
    expect(made['webhook-signature']).toBe(new Webhook(secret).sign(id, at, body));
  });

  it('has an id without a full stop, which is the same at each attempt and another for each event', () => {
    const { id } = webhookMessageOf(cloudEventOf(event));
    expect(id).toMatch(/^msg_[\w-]{27}$/);
    expect(webhookMessageOf(cloudEventOf(event)).id).toBe(id);
    expect(webhookMessageOf(cloudEventOf({ ...event, id: 'task_2/berth.task.succeeded' })).id).not.toBe(id);
  });
});

describe('a secret', () => {
  it('is whsec_ and the base64 of 24 to 64 bytes', () => {
    for (const bytes of [24, 32, 64]) expect(webhookKeyOf(`whsec_${randomBytes(bytes).toString('base64')}`)).toHaveLength(bytes);
    const base64 = randomBytes(32).toString('base64');
    const wrong = [
      '',
      'whsec_',
      base64,
      `whsec_${randomBytes(23).toString('base64')}`,
      `whsec_${randomBytes(65).toString('base64')}`,
      `whsec_${base64}\n`,
      `whsec_ ${base64}`,
      `WHSEC_${base64}`,
      `whsk_${base64}`,
      `whsec_${'ä'.repeat(40)}`,
      `whsec_${base64.slice(0, -2)}`,
      `whsec_${'A'.repeat(10_000)}`,
    ];
    for (const text of wrong) expect([text, webhookKeyOf(text)]).toEqual([text, null]);
  });

  it('is decrypted by the key that has encrypted it, for what it was encrypted for, and by nothing else', () => {
    const text = (id: string) => `${id}:${randomBytes(32).toString('base64')}`;
    const [first, second] = [text('a'), text('b')];
    const secret = randomBytes(32);
    const sealed = sealSecret(parseSealingKeys(first), secret, 'webhook_1/secret_1');
    expect(Buffer.from(sealed.sealed).includes(secret)).toBe(false);
    expect(openSealed(parseSealingKeys(`${second}, ${first}`), sealed, 'webhook_1/secret_1')).toEqual(secret);
    expect(() => openSealed(parseSealingKeys(first), sealed, 'webhook_2/secret_1')).toThrow('unable to authenticate');
    expect(() => openSealed(parseSealingKeys(second), sealed, 'webhook_1/secret_1')).toThrow('There is no key a');
    const changed = { ...sealed, sealed: sealed.sealed.with(14, sealed.sealed[14]! ^ 1) };
    expect(() => openSealed(parseSealingKeys(first), changed, 'webhook_1/secret_1')).toThrow('unable to authenticate');
    // Two encryptions of one secret do not show that it is the same.
    expect(sealSecret(parseSealingKeys(first), secret, 'webhook_1/secret_1').sealed).not.toEqual(sealed.sealed);
  });

  it('of the configuration is named by its place alone where it is wrong', () => {
    const short = randomBytes(16).toString('base64');
    for (const text of ['', 'a', `a:${short}`, `a b:${randomBytes(32).toString('base64')}`]) {
      expect(() => parseSealingKeys(text)).toThrow('key 1 is not ID:BASE64');
      expect(() => parseSealingKeys(text)).not.toThrow(short);
    }
    const one = `a:${randomBytes(32).toString('base64')}`;
    expect(() => parseSealingKeys(`${one},${one}`)).toThrow('the same id');
  });
});

describe('a URL', () => {
  it('is http or https, without credentials, a fragment, or what a parser drops', () => {
    for (const url of ['https://example.net', 'http://example.net:8080/a?b=c', 'https://[2001:db8::1]/x'])
      expect(WebhookUrl.safeParse(url).success).toBe(true);
    const wrong = [
      'ftp://example.net',
      'file:///etc/passwd',
      'javascript:alert(1)',
      'gopher://example.net',
      'https://user@example.net',
      'https://user:password@example.net',
      'https://:password@example.net/',
      'https://example.net/#part',
      'https://example.net/\r\nX-Injected: 1',
      'https://exa\tmple.net/',
      ' https://example.net',
      'https://',
      '//example.net',
      'https://example.net:99999/',
      'https://münchen.example/',
      `https://example.net/${'a'.repeat(3000)}`,
    ];
    for (const url of wrong) expect([url, WebhookUrl.safeParse(url).success]).toEqual([url, false]);
  });
});

describe('a filter', () => {
  const filter = { id: 'webhook_1', ownerId: 'owner_1', site: false, types: [] as string[] };
  const of = (type: string, subject = 'task_1', ownerId = 'owner_1') => ({ type, subject, ownerId });

  it("passes an owner's own events, by their type or the begin of it", () => {
    expect(isForWebhook(filter, of('berth.vm.created'))).toBe(true);
    expect(isForWebhook(filter, of('berth.vm.created', 'vm_1', 'owner_2'))).toBe(false);
    expect(isForWebhook({ ...filter, site: true }, of('berth.vm.created', 'vm_1', 'owner_2'))).toBe(true);
    const tasks = { ...filter, types: ['berth.task.*', 'berth.vm.created'] };
    for (const [type, passes] of [
      ['berth.task.accepted', true],
      ['berth.taskforce.accepted', false],
      ['berth.vm.created', true],
      ['berth.vm.createdAgain', false],
    ] as const)
      expect([type, isForWebhook(tasks, of(type))]).toEqual([type, passes]);
  });

  it('gives a test to its endpoint alone, and what was missed to it in any case', () => {
    const none = { ...filter, types: ['berth.drain.*'] };
    expect(isForWebhook(none, of('berth.webhook.test', 'webhook_1'))).toBe(true);
    expect(isForWebhook({ ...filter, site: true }, of('berth.webhook.test', 'webhook_2'))).toBe(false);
    expect(isForWebhook(none, of('berth.webhook.missed', 'webhook_1'))).toBe(true);
    expect(isForWebhook(none, of('berth.webhook.missed', 'webhook_2'))).toBe(false);
  });

  it('has types of which none takes long to compare', () => {
    for (const type of ['berth.task.*', 'berth.vm.created', 'berth.*', 'berth'])
      expect(WebhookType.safeParse(type).success).toBe(true);
    for (const type of ['*', 'berth.*.created', 'task.created', 'berth.task.**', 'berth..', `berth.${'a'.repeat(200)}`])
      expect([type, WebhookType.safeParse(type).success]).toEqual([type, false]);
  });
});

describe('retries', () => {
  it('go on for more than 28 hours, until five days, at most an hour apart', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, noNaN: true }), (random) => {
        let [ms, attempts, in28Hours] = [0, 0, 0];
        while (ms < disabledAfterMs) {
          attempts += 1;
          ms += retryDelayMs(attempts, null, random);
          if (ms < 28 * 3600_000) in28Hours = attempts;
        }
        expect(in28Hours).toBeGreaterThan(35);
        expect(attempts).toBeLessThan(200);
      }),
    );
    expect(retryDelayMs(1, null, 0)).toBe(1000);
    expect(retryDelayMs(100_000, null, 0)).toBe(3600_000);
  });

  it('wait as long as the receiver asks, up to an hour', () => {
    const nowMs = Date.parse('2026-11-30T12:00:00Z');
    expect(retryDelayMs(1, retryAfterOf('120', nowMs), 0)).toBe(120_000);
    expect(retryDelayMs(1, retryAfterOf('999999999', nowMs), 0)).toBe(3600_000);
    expect(retryAfterOf('Mon, 30 Nov 2026 12:00:30 GMT', nowMs)).toBe(30);
    expect(retryAfterOf('Mon, 30 Nov 2026 11:00:00 GMT', nowMs)).toBe(0);
    for (const text of [undefined, '', '-5', '1e9', 'soon', 'x'.repeat(100_000)]) expect(retryAfterOf(text, nowMs)).toBeNull();
  });
});

it('the key of a signature is the decoded secret', () => {
  const key = randomBytes(24);
  const headers = webhookHeaders({ id: 'msg_1', body: '{}' }, 5, [webhookKeyOf(`whsec_${key.toString('base64')}`)!]);
  const expected = createHmac('sha256', key).update('msg_1.5.{}').digest('base64');
  expect(headers['webhook-signature']).toBe(`v1,${expected}`);
});
