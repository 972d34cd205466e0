import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import { callJson, type Session, withRetry } from '../client.ts';
import { print } from '../output.ts';

/** As far as it is printed. */
export interface Event {
  id: string;
  time: string;
  type: string;
  subject: string;
  sequence: string;
}

const pollMs = 1_000;

export function addEventCommand(program: Command, { connect, output }: Session): void {
  program
    .command('events')
    .description('print events, oldest first')
    .option('--after <cursor>', 'go on after this one; without it, from the first event on that is kept')
    .option('--type <type>', 'only of this type, e.g. berth.task.succeeded')
    .option('--follow', 'wait for more')
    .addHelpText(
      'after',
      '\nWith --json each event is a CloudEvent on a line of its own.\n\nExample:\n  berth events --follow --type berth.task.succeeded --json',
    )
    .action(async ({ after, type, follow }: { after?: string; type?: string; follow?: boolean }) => {
      let cursor = after;
      for (;;) {
        const query = new URLSearchParams({
          limit: '1000',
          ...(cursor !== undefined && { after: cursor }),
          ...(type !== undefined && { type }),
        });
        const page = await withRetry(() => callJson<{ items: Event[]; next: string }>(connect(), `/v1/events?${query}`));
        for (const event of page.items) {
          const { sequence, time, type, subject } = event;
          print(output(), output().json ? JSON.stringify(event) : `${sequence}  ${time}  ${type}  ${subject}`);
        }
        cursor = page.next;
        if (page.items.length > 0) continue;
        if (!follow) return;
        await pause(pollMs);
      }
    });
}
