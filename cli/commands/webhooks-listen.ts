import { setTimeout as pause } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { webhookMessageOf } from '../../model/webhooks/message.ts';
import { newWebhookSecret, webhookHeaders, webhookKeyOf } from '../../model/webhooks/signature.ts';
import { callJson, type Session, withRetry } from '../client.ts';
import { send } from '../http.ts';
import { print } from '../output.ts';
import type { Event } from './events.ts';

/** How long the API waits for events before it answers without any. */
const waitS = 30;
const maxPauseMs = 10_000;
const timeouts = { connectMs: 5000, answerMs: 15_000 };

/** `3000`, `3000/hook`, or a URL. */
function receiver(text: string): URL {
  const url = URL.parse(/^\d{1,5}(\/|$)/.test(text) ? `http://127.0.0.1:${text}` : text);
  if (url === null || !/^https?:$/.test(url.protocol)) throw new InvalidArgumentError('expected a port such as 3000, or a URL');
  return url;
}

function secretOf(text: string): string {
  if (webhookKeyOf(text) === null) throw new InvalidArgumentError('expected whsec_ and the base64 of 24 to 64 bytes');
  return text;
}

/** The status of the receiver's answer, or why there is none. */
async function deliver(to: URL, event: Event, key: Buffer): Promise<number | string> {
  const message = webhookMessageOf(event);
  const headers = {
    'content-type': 'application/json',
    'content-length': String(Buffer.byteLength(message.body)),
    ...webhookHeaders(message, Math.floor(Date.now() / 1000), [key]),
  };
  try {
    const { status, body } = await send(to, { method: 'POST', headers, body: message.body }, timeouts);
    body.resume();
    return status;
  } catch (error) {
    return error instanceof Error ? error.message || error.name : String(error);
  }
}

/** `berth webhooks listen`. */
export function addListenCommand(webhooks: Command, { connect, output }: Session): void {
  webhooks
    .command('listen')
    .description('send events to a receiver on this machine as a webhook would: for its development, without a public address')
    .argument('<to>', 'a port of this machine, such as 3000 or 3000/hook, or a URL', receiver)
    .option('--secret <secret>', 'what to sign by; without it, one is made and printed', secretOf)
    .option('--type <type>', 'only events of this type, e.g. berth.task.succeeded')
    .option('--after <sequence>', 'events after this one, instead of those from now on')
    .addHelpText('after', '\nExample:\n  berth webhooks listen 3000/hook --type berth.task.succeeded')
    .action(async (to: URL, options: { secret?: string; type?: string; after?: string }) => {
      const connection = connect();
      const secret = options.secret ?? newWebhookSecret();
      const key = webhookKeyOf(secret)!;
      if (options.secret === undefined) output().err.write(`the secret is ${secret}\n`);
      const read = (query: Record<string, string>) =>
        withRetry(() =>
          callJson<{ items: Event[]; next: string }>(connection, `/v1/events?${new URLSearchParams({ limit: '100', ...query })}`),
        );
      const type = options.type === undefined ? {} : { type: options.type };
      // Of no type: it reads on to the newest event.
      let after = options.after ?? (await newest(read));
      for (;;) {
        const page = await read({ ...type, after, wait: String(waitS) });
        for (const event of page.items) {
          for (let pauseMs = 500; ; pauseMs = Math.min(2 * pauseMs, maxPauseMs)) {
            const outcome = await deliver(to, event, key);
            print(
              output(),
              output().json
                ? JSON.stringify({ sequence: event.sequence, type: event.type, outcome })
                : `${event.sequence}  ${event.type}  ${event.subject}  ${outcome}`,
            );
            if (typeof outcome === 'number' && outcome >= 200 && outcome < 300) break;
            await pause(pauseMs);
          }
        }
        after = page.next;
      }
    });
}

/** The cursor after the newest event. */
async function newest(read: (query: Record<string, string>) => Promise<{ items: Event[]; next: string }>): Promise<string> {
  // A type that no event has: the answer's cursor is after all of them.
  return (await read({ type: 'none' })).next;
}
