import { createInterface } from 'node:readline';
import { createHostActivities } from '../../../activities/host/index.ts';
import { openHost } from '../../../drivers/host/open-host.ts';
import { readConfig } from '../../../model/config.ts';
import { BerthError } from '../../../model/errors.ts';
import { openLog } from '../../../model/log.ts';
import { newAttempt } from '../attempt.ts';
import { pack, settled, unpack } from './wire.ts';

/**
 * Runs inside a host's namespaces and does there what the test asks for on standard input: a call of a port, or of an
 * activity (where the port is null), as lines of JSON.
 */
const log = openLog('test', 'error');
const ports = await openHost(readConfig(['host'], process.env).host, log);
const activities = createHostActivities(ports);

interface Order {
  id: number;
  port: string | null;
  method: string;
  args: unknown[];
}

type Call = (...args: unknown[]) => unknown;

async function perform({ port, method, args }: Order): Promise<unknown> {
  if (port === null) {
    const activity = (activities as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>)[method]!;
    return newAttempt().run(activity, ...args);
  }
  const target = (ports as unknown as Record<string, Record<string, Call>>)[port]!;
  return settled(await target[method]!(...args));
}

const say = (message: object): void => {
  process.stdout.write(`${pack(message)}\n`);
};
createInterface({ input: process.stdin })
  .on('line', (line) => {
    const order = unpack(line) as Order;
    perform(order).then(
      (result) => say({ id: order.id, result: result ?? null }),
      (error: unknown) =>
        say({ id: order.id, error: { code: error instanceof BerthError ? error.code : 'thrown', message: String(error) } }),
    );
  })
  .on('close', () => process.exit(0));
say({ id: 0, result: 'ready' });
