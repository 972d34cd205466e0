import { BerthError } from '../../model/errors.ts';
import type { StreamStatus } from '../../model/streams/channels.ts';
import type { Relay } from './relay.ts';

/** How a command has ended whose output was kept here. */
export interface CommandEnd {
  status: StreamStatus;
  output: Buffer;
  error: Buffer;
}

/** Of the error output the begin is kept. */
const errorBytes = 4096;

/**
 * Serves a connected session to its end, and keeps its outputs. Throws guest-invalid for more output than may be. @param gone rejects then
 */
export async function collectOutput(relay: Relay, mostBytes: number, gone: Promise<never>): Promise<CommandEnd> {
  const ended = Promise.withResolvers<CommandEnd>();
  const kept = { output: [] as Uint8Array[], error: [] as Uint8Array[], bytes: 0, errorBytes: 0 };
  relay.serve({
    begin: () => undefined,
    inputRead: () => undefined,
    output(channel, bytes, end) {
      if (channel === 2) {
        if (kept.errorBytes < errorBytes) kept.error.push(bytes.slice(0, errorBytes - kept.errorBytes));
        kept.errorBytes += bytes.length;
      } else {
        kept.bytes += bytes.length;
        if (kept.bytes > mostBytes)
          ended.reject(new BerthError('guest-invalid', `The guest sends more than ${mostBytes} bytes, which are not read`));
        else kept.output.push(bytes.slice());
      }
      relay.confirm(end);
    },
    end(status, confirmed) {
      confirmed();
      ended.resolve({ status, output: Buffer.concat(kept.output), error: Buffer.concat(kept.error) });
    },
  });
  relay.endInput();
  return Promise.race([ended.promise, gone]);
}
