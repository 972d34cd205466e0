import { type Command, Option } from 'commander';
import { webhookKeyOf } from '../../model/webhooks/signature.ts';
import { callEmpty, callJson, list, postOnce, type Session, UsageError } from '../client.ts';
import { given, positiveNumber } from '../options.ts';
import { print, printOne, printRows } from '../output.ts';
import { addListenCommand } from './webhooks-listen.ts';

interface Webhook {
  id: string;
  url: string;
  types: string[];
  scope: string;
  state: string;
  cursor: string;
  failures: number;
  lastError: string | null;
  retryAt: string | null;
}

interface Delivery {
  n: string;
  sequence: string;
  type: string;
  taken: boolean;
  status: number | null;
  error: string | null;
  ms: number;
  at: string;
}

const path = (id: string): string => `/v1/webhooks/${encodeURIComponent(id)}`;
const typesOf = (text: string): string[] => text.split(',').filter((one) => one !== '');

/** `berth webhooks …`. */
export function addWebhookCommands(program: Command, session: Session): void {
  const { connect, output } = session;
  const webhooks = program.command('webhooks').description('endpoints that events are sent to');

  const post = <T>(to: string, json?: object): Promise<T> => postOnce<T>(connect(), to, json);

  webhooks
    .command('list', { isDefault: true })
    .description('list webhooks, newest first: your own, or of operators all')
    .addHelpText('after', '\nExample:\n  berth webhooks list')
    .action(async () => {
      printRows(output(), await list<Webhook>(connect(), '/v1/webhooks', {}, 10_000), {
        id: ({ id }) => id,
        url: ({ url }) => url,
        types: ({ types }) => types.join(',') || 'all',
        scope: ({ scope }) => scope,
        state: ({ state, failures }) => (state === 'active' && failures > 0 ? 'failing' : state),
        error: ({ lastError }) => lastError,
        retry: ({ retryAt }) => retryAt,
      });
    });

  webhooks
    .command('add')
    .description('send events to a URL; prints the secret, once')
    .argument('<url>', 'http or https')
    .option('--types <types>', 'only of these types, comma-separated, such as berth.task.*,berth.bill.settled', typesOf)
    .option('--description <text>', 'what it is for')
    .option('--after <sequence>', 'events after this one, instead of those from now on')
    .option('--secret <secret>', 'a secret of your own: whsec_ and the base64 of 24 to 64 bytes')
    .addOption(new Option('--scope <scope>', 'site: events of every owner (operators)').choices(['owner', 'site']))
    .addHelpText('after', '\nExample:\n  berth webhooks add https://example.net/berth --types berth.task.*')
    .action(async (url: string, options: Record<string, string | string[]>) => {
      printOne(output(), await post<object>('/v1/webhooks', given({ url, ...options })));
    });

  webhooks
    .command('show')
    .description('how the deliveries of a webhook go')
    .argument('<webhook>', 'its id')
    .addHelpText('after', '\nExample:\n  berth webhooks show webhook_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (id: string) => {
      printOne(output(), await callJson<object>(connect(), path(id)));
    });

  webhooks
    .command('change')
    .description('change, disable or activate a webhook')
    .argument('<webhook>', 'its id')
    .option('--url <url>', 'another URL')
    .option('--types <types>', 'other types, comma-separated; empty: all', typesOf)
    .option('--description <text>', 'what it is for')
    .addOption(new Option('--state <state>', 'active: deliveries go on where they ended').choices(['active', 'disabled']))
    .addHelpText('after', '\nExample:\n  berth webhooks change webhook_01jd7x3v8ve5hb1f5wwfb2x5r1 --state active')
    .action(async (id: string, options: Record<string, string | string[]>) => {
      printOne(output(), await callJson<object>(connect(), path(id), { method: 'PATCH', json: given(options) }));
    });

  webhooks
    .command('remove')
    .description('remove a webhook')
    .argument('<webhook>', 'its id')
    .addHelpText('after', '\nExample:\n  berth webhooks remove webhook_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (id: string) => {
      await callEmpty(connect(), path(id), { method: 'DELETE' });
      print(output(), output().json ? JSON.stringify({ removed: id }) : `${id} is removed`);
    });

  webhooks
    .command('rotate')
    .description('add a secret, which is printed once, and end the others after a while')
    .argument('<webhook>', 'its id')
    .option('--keep <seconds>', 'for how long deliveries are signed by the others as well', positiveNumber)
    .option('--secret <secret>', 'a secret of your own')
    .addHelpText('after', '\nExample:\n  berth webhooks rotate webhook_01jd7x3v8ve5hb1f5wwfb2x5r1 --keep 3600')
    .action(async (id: string, { keep, secret }: { keep?: number; secret?: string }) => {
      if (secret !== undefined && webhookKeyOf(secret) === null)
        throw new UsageError('The secret is not whsec_ and the base64 of 24 to 64 bytes');
      printOne(output(), await post<object>(`${path(id)}/secrets`, given({ keepOthersS: keep, secret })));
    });

  webhooks
    .command('test')
    .description('send an event of the type berth.webhook.test to a webhook alone')
    .argument('<webhook>', 'its id')
    .addHelpText('after', '\nExample:\n  berth webhooks test webhook_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (id: string) => {
      printOne(output(), await post<object>(`${path(id)}/test`));
    });

  webhooks
    .command('replay')
    .description('deliver the events after a cursor, again where they were delivered before')
    .argument('<webhook>', 'its id')
    .requiredOption('--after <sequence>', "an event's sequence")
    .addHelpText('after', '\nExample:\n  berth webhooks replay webhook_01jd7x3v8ve5hb1f5wwfb2x5r1 --after 12000')
    .action(async (id: string, { after }: { after: string }) => {
      printOne(output(), await post<object>(`${path(id)}/replay`, { after }));
    });

  webhooks
    .command('deliveries')
    .description('list the attempts to deliver events, newest first')
    .argument('<webhook>', 'its id')
    .option('--limit <count>', 'so many at most', positiveNumber, 100)
    .addHelpText('after', '\nExample:\n  berth webhooks deliveries webhook_01jd7x3v8ve5hb1f5wwfb2x5r1 --limit 20')
    .action(async (id: string, { limit }: { limit: number }) => {
      printRows(output(), await list<Delivery>(connect(), `${path(id)}/deliveries`, {}, limit), {
        at: ({ at }) => at,
        sequence: ({ sequence }) => sequence,
        type: ({ type }) => type,
        status: ({ status }) => status,
        ms: ({ ms }) => ms,
        error: ({ error }) => error,
      });
    });

  addListenCommand(webhooks, session);
}
